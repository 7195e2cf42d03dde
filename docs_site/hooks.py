"""Make the pages of methods, modules and linked files, and convert links and formulas, while MkDocs builds.

Nothing is written twice: the start page is README.md, the page of a method is made of the docstrings of its file,
of the configs that name it and of its rows in the tables of docs/, the page of a notebook is its cells and the
outputs that it keeps, and a file of the repository that a page links to becomes a page.
"""

import base64
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from functools import cache
from html import unescape
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r'(\]\()([^)\s#:]+)(#[^)\s]*)?(\))')
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.yml': 'yaml', '.toml': 'toml', '.json': 'json'}
PICTURES = ('.png', '.jpg', '.svg')
#: What the converter says of \bigl( and \bigr).
LARGE = 'stretchy="true" fence="true" minsize="1.2em" maxsize="1.2em"'
#: Tables of docs/ whose rows say something of a method.
TABLES = ('docs/baselines.md', 'docs/released_code.md')


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Apply a function to a Markdown text, but for its fenced blocks."""
    parts = re.split(r'(^```.*?^```$)', text, flags=re.M | re.S)
    return ''.join(part if at % 2 else change(part) for at, part in enumerate(parts))


def uri_of(path: str) -> str:
    """Return the address within the site of a file of the repository; both relative, with slashes."""
    if path == 'README.md':
        return 'index.md'
    if path.startswith('docs/'):
        return re.sub(r'\.ipynb$', '.md', path.removeprefix('docs/'))
    if (ROOT / path).is_dir():
        path = f'{path}/README.md'
    return f'source/{path}' if path.endswith(('.md', *PICTURES)) else f'source/{path}.md'


def target_of(path: str, link: str) -> str | None:
    """Return the file or folder to which a link in a file leads; None if the repository has none to show."""
    there = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    if there.startswith('..') or not ((ROOT / there).is_file() or (ROOT / there / 'README.md').is_file()):
        return None  # MkDocs reports it
    return there


def links_of(path: str, text: str) -> Iterator[str]:
    """List the files and folders of the repository to which a Markdown file links."""
    text = re.sub(r'^```.*?^```$', '', text, flags=re.M | re.S)
    yield from filter(None, (target_of(path, match[2]) for match in LINK.finditer(text)))


def relink(path: str, text: str, uri: str) -> str:
    """Point the links of a Markdown file to where their targets are in the site."""

    def change(match: re.Match) -> str:
        there = target_of(path, match[2])
        if there is None:
            return match[0]
        target = posixpath.relpath(uri_of(there), posixpath.dirname(uri) or '.')
        return f'{match[1]}{target}{match[3] or ""}{match[4]}'

    return outside_code(text, lambda part: LINK.sub(change, part))


def page_of_notebook(path: str) -> dict[str, str | bytes]:
    """Return the page of a notebook and the pictures that its outputs show, by address in the site."""
    uri, name = uri_of(path), posixpath.basename(path)
    pictures: dict[str, str | bytes] = {}
    texts: list[str] = []
    for cell in json.loads((ROOT / path).read_text())['cells']:
        source = ''.join(cell['source'])
        texts.append(source if cell['cell_type'] == 'markdown' else f'```python\n{source}\n```')
        for output in cell.get('outputs', ()):
            data = output.get('data', {})
            if 'image/png' in data:
                picture = f'{uri.removesuffix(".md")}_{len(pictures)}.png'
                pictures[picture] = base64.b64decode(data['image/png'])
                texts.append(f'![what the cell draws]({posixpath.basename(picture)})')
            else:
                said = ''.join(output.get('text') or data['text/plain']).rstrip()
                texts.append(f'``` {{.text .output .no-copy}}\n{said}\n```')
    text = relink(path, '\n\n'.join(texts), uri)
    source = f'This page is the notebook [{name}]({name}) with the outputs that it keeps.'
    text = text.replace('\n\n', f'\n\n{source}\n\n', 1)  # below the title
    return {uri: text, **pictures}


def page_of_file(path: str) -> str:
    """Return the page of a file of the repository: itself if it is Markdown, else what is in it."""
    file = ROOT / path
    if file.is_dir():
        file = file / 'README.md'
        path = f'{path}/README.md'
    text = file.read_text()
    if file.suffix == '.md':
        return relink(path, text, uri_of(path))
    return f'# {path}\n\n````{LANGUAGES.get(file.suffix, "text")}\n{text.rstrip()}\n````\n'


def linked_files() -> dict[str, str | bytes]:
    """Return the pages of all files outside docs/ that a page links to, by address; links of links too."""
    pages: dict[str, str | bytes] = {'index.md': relink('README.md', (ROOT / 'README.md').read_text(), 'index.md')}
    queue = ['README.md', 'CONTRIBUTING.md', *(f'docs/{file.name}' for file in (ROOT / 'docs').glob('*.md'))]
    queue += [path for method in methods() for path in configs_of(method)]
    for file in (ROOT / 'docs').glob('*/*.ipynb'):
        path = file.relative_to(ROOT).as_posix()
        pages.update(page_of_notebook(path))
        queue += links_of(path, ''.join(''.join(cell['source']) for cell in json.loads(file.read_text())['cells']))
    seen = set()
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        uri = uri_of(path)
        if not path.startswith('docs/') and uri not in pages:
            pages[uri] = (ROOT / path).read_bytes() if path.endswith(PICTURES) else page_of_file(path)
        file = ROOT / path / 'README.md' if (ROOT / path).is_dir() else ROOT / path
        if file.suffix == '.md':
            queue += links_of(posixpath.relpath(file, ROOT), file.read_text())
    return pages


@cache
def package() -> griffe.Module:
    """Read the package without importing it."""
    found = griffe.load('mmcds', search_paths=[str(ROOT)], resolve_aliases=True)
    assert isinstance(found, griffe.Module)
    return found


def modules(within: griffe.Module) -> Iterator[griffe.Module]:
    """List a package's modules and those of its folders; private ones are left out."""
    for module in sorted(within.modules.values(), key=lambda module: module.name):
        if not module.is_alias and not module.name.startswith('_'):
            yield module
            yield from modules(module)


@cache
def methods() -> tuple[griffe.Class, ...]:
    """Return the registered supervisions: the paper's own first, then by file."""
    found = [
        cls
        for module in modules(package())
        for cls in module.classes.values()
        if not cls.is_alias
        and any(str(decorator.value) == 'MODELS.register' for decorator in cls.decorators)
        and any(base.path == 'mmcds.core.supervision.Supervision' for base in cls.mro())
    ]
    return tuple(sorted(found, key=lambda cls: (not cls.path.startswith('mmcds.methods.'), cls.module.name)))


def text_of(obj: griffe.Object) -> str:
    """Return the docstring of an object, which every public one has."""
    assert obj.docstring, f'{obj.path} has no docstring'
    return obj.docstring.value


def siblings(method: griffe.Class) -> list[griffe.Class]:
    """Return the supervisions of the same file."""
    return [other for other in methods() if other.module.path == method.module.path]


def short_name(method: griffe.Class) -> str:
    """Return what the tables call a method: the first words of its file's docstring."""
    if method.path.startswith('mmcds.methods.'):
        return {'ContrastiveSupervision': 'CDS'}.get(method.name, method.name)
    return re.split(r'[,:]', text_of(method.module).splitlines()[0])[0]


def title(method: griffe.Class) -> str:
    """Return the title of a method's page."""
    name = short_name(method)
    return name if len(siblings(method)) == 1 or name == method.name else f'{name}: {method.name}'


def configs_of(method: griffe.Class) -> list[str]:
    """Return the configs that name a method, the shortest name first."""
    found = [
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / 'configs').rglob('*.py')
        if re.search(rf"type='{method.name}'", file.read_text())
    ]
    return sorted(found, key=lambda path: (len(path), path))


def rows_of(name: str, path: str) -> Iterator[str]:
    """List what the tables of a page say of a method, as items of a list, each with the section of its table."""
    head: list[str] = []
    section = ''
    for line in (ROOT / path).read_text().splitlines():
        if line.startswith('#'):
            section = line.lstrip('# ')
        cells = [cell.strip() for cell in line.strip('|').split('|')] if line.startswith('|') else []
        if not cells:
            head = []
        elif not head:
            head = cells
        else:
            first = re.sub(r'\[([^\]]+)\]\([^)]*\)', r'\1', cells[0])
            if first == name or first.startswith(f'{name} (') or first.endswith((f' {name}', f'({name})')):
                pairs = zip(head[1:], cells[1:], strict=True)
                said = '; '.join(f'{key}: {cell}' if key else cell for key, cell in pairs if cell)
                where = f'{path.removeprefix("docs/")}#{slugify(section, "-")}'
                yield f'- [{section}]({where}): {said}'


def page_of_method(method: griffe.Class) -> str:
    """Return the page of a method: idea, reference with the formula, configs, and what is known of other forms."""
    lines = [f'# {title(method)}', '']
    if not method.path.startswith('mmcds.methods.'):
        idea = text_of(method.module).splitlines()[0].removeprefix(short_name(method)).lstrip(',: ')
        lines += [f'{idea[:1].upper()}{idea[1:]}', '']
    lines += [f'::: {method.path}', '    options: {heading_level: 2, show_root_full_path: false}', '']
    lines += ['## In a config', '']
    configs = configs_of(method)
    if configs:
        lines += ['```python', (ROOT / configs[0]).read_text().rstrip(), '```', '']
        lines += [f'That is [{configs[0]}](../{uri_of(configs[0])}).', '']
    else:
        example = f"model.supervisions.NAME = dict(type='{method.name}')"
        lines += [f'No config of the package names it: `{example}`.', '']
    if configs[1:]:
        lines += ['Others that name it:', '', *(f'- [{path}](../{uri_of(path)})' for path in configs[1:]), '']
    lines += ['## The paper, other code, results', '']
    for path in TABLES:
        rows = list(rows_of(short_name(method), path))
        if rows:
            lines += [relink(path, '\n'.join(rows), f'methods/{method.name}.md'), '']
    lines += [
        'Differences between the text of the paper, the released code and this package: '
        '[Against the released code](../released_code.md).',
        '',
    ]
    return '\n'.join(lines)


def overview() -> str:
    """Return the page that lists all methods."""
    lines = ['# Methods', '', 'Every method is a supervision: a loss on what a training step has computed.', '']
    lines += ['| method | what it does |', '| --- | --- |']
    for method in methods():
        idea = re.sub(r':\w+:`([^`]+)`', r'`\1`', text_of(method).split('\n\n')[0].replace('\n', ' '))
        name = short_name(method)
        shown = f'[{name}]({method.name}.md)' + ('' if name == method.name else f' `{method.name}`')
        lines.append(f'| {shown} | {idea} |')
    return '\n'.join(lines) + '\n'


def folders() -> list[griffe.Module]:
    """Return the package and its folders, in the order of README.md where that names them."""
    order = re.findall(r'^ +([a-z_]+)/ {2,}', (ROOT / 'README.md').read_text(), re.M)
    found = [module for module in modules(package()) if module.is_package or module.is_subpackage]

    def place(module: griffe.Module) -> tuple[int, str]:
        first = module.path.split('.')[1]
        return (order.index(first) if first in order else len(order), module.path)

    return [package(), *sorted(found, key=place)]


def page_of_folder(folder: griffe.Module) -> str:
    """Return the reference of a folder: all its modules, but the classes that have a page as a method."""
    lines = [
        f'# {folder.path}',
        '',
        f'::: {folder.path}',
        '    options: {members: false, show_root_heading: false}',
        '',
    ]
    for module in sorted(folder.modules.values(), key=lambda module: module.name):
        if module.is_alias or module.name.startswith('_') or module.is_package or module.is_subpackage:
            continue
        own = [cls for cls in methods() if cls.module.path == module.path]
        filters = ['!^_', *(f'!^{cls.name}$' for cls in own)]
        lines += [f'::: {module.path}', '    options:', f'      filters: {filters}', '']
        if own:
            pages = ', '.join(f'[{cls.name}](../methods/{cls.name}.md)' for cls in own)
            lines += [f'With a page of their own: {pages}.', '']
    return '\n'.join(lines)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made here into the navigation, and those that mkdocs.yml does not name."""
    package.cache_clear()  # `mkdocs serve` builds again when a file has changed
    methods.cache_clear()
    filled = {
        'methods': ['methods/index.md']
        + [{title(method): f'methods/{method.name}.md'} for method in methods()]
        + [{'Distillation, all tables': 'baselines.md'}, {'Adding a method': 'adding_a_method.md'}],
        'api': [{folder.path: f'api/{folder.path}.md'} for folder in folders()],
    }
    config.nav = [
        {name: filled.get(place, place) if isinstance(place, str) else place}
        for entry in config.nav or ()
        for name, place in entry.items()
    ]
    named = str(config.nav)
    more = sorted(file.name for file in (ROOT / 'docs').glob('*.md') if f"'{file.name}'" not in named)
    if more:
        config.nav.insert(-1, {'More': more})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    pages = linked_files()
    pages['methods/index.md'] = overview()
    pages.update({f'methods/{method.name}.md': page_of_method(method) for method in methods()})
    pages.update({f'api/{folder.path}.md': page_of_folder(folder) for folder in folders()})
    for uri, text in pages.items():
        file = File.generated(config, uri, content=text)
        if uri.startswith('source/') and uri != 'source/CONTRIBUTING.md':
            file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    files.append(File.generated(config, 'assets/site.css', content=(ROOT / 'docs_site/site.css').read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of the pages in docs/ to where files outside of it are in the site."""
    uri = page.file.src_uri
    return relink(f'docs/{uri}', markdown, uri) if page.file.generated_by is None else markdown


def scrollable(html: str, page: Page, files: Files) -> str:
    """Mark pictures that are over twice as wide as high: a phone shows a part of them, not all of it too small."""
    found = {file.url: file for file in files}

    def mark(match: re.Match) -> str:
        file = found.get(posixpath.normpath(posixpath.join(page.url, match[1])))
        if file is None or not file.url.endswith('.png'):
            return match[0]
        width, height = (int.from_bytes(file.content_bytes[at : at + 4], 'big') for at in (16, 20))
        return match[0] if width <= 2 * height else f'<span class="wide">{match[0]}</span>'

    return re.sub(r'<img [^>]*src="([^"]+)"[^>]*>', mark, html)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, which browsers show by themselves, and look after what a phone shows."""

    def formula(match: re.Match) -> str:
        display = 'block' if match[2] == '[' else 'inline'
        # \bigl( is a little larger; a browser would stretch it to the height of the whole formula
        return convert(unescape(match[3]), display=display).replace(LARGE, 'stretchy="false"')

    formulas = r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>'
    html = re.sub(r'(\d) ± (\d)', '\\1\u00a0±\u00a0\\2', html)  # a cell of a table does not break there
    return scrollable(re.sub(formulas, formula, html, flags=re.S), page, files)
