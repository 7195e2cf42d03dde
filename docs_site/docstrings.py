"""Turn what docstrings have of reStructuredText into Markdown: roles become links, formulas are marked."""

import logging
import re
from contextlib import suppress
from typing import Any

import griffe

#: A warning here makes ``mkdocs build --strict`` fail.
log = logging.getLogger('mkdocs.plugins.mmcds')

ROLE = re.compile(r':(\w+):`([^`]+)`')
MATH_BLOCK = re.compile(r'^([ \t]*)\.\. math::[ \t]*(.*(?:\n(?:[ \t]*\n)*\1[ \t]+\S.*)*)', re.M)


def block(match: re.Match) -> str:
    """Write a ``.. math::`` directive as a block of its own; what is indented below it belongs to it."""
    formula = ' '.join(match[2].split())
    return f'{match[1]}\\[{formula}\\]\n'


def to_markdown(text: str, link: Any) -> str:
    r"""Convert a docstring.

    Args:
        text: The docstring.
        link: Maps the target of a role, such as ``mmcds.heads.CDSNeck``, to the name of a documented object,
            or to None.

    Returns:
        Markdown, with formulas as ``\(...\)`` and ``\[...\]``.
    """

    def role(match: re.Match) -> str:
        kind, target = match[1], ' '.join(match[2].split())
        if kind == 'math':
            return f'\\({target}\\)'
        shown, target = target.lstrip('~!'), target.lstrip('~!')
        found = link(target)
        return f'[`{shown.rsplit(".", 1)[-1]}`][{found}]' if found else f'`{shown}`'

    text = ROLE.sub(role, MATH_BLOCK.sub(block, text))
    text = re.sub(r'^([ \t]*(?:\w+: )?)>(?= )', r'\1\\>', text, flags=re.M)  # '> 0' is no quotation
    text = re.sub(r'^([ \t]*)Example:$', r'\1Examples:', text, flags=re.M)
    return re.sub(r'::$', ':', text, flags=re.M)


def is_public(obj: griffe.Object) -> bool:
    """Return whether an object and all that it lies in have names without an underscore in front."""
    return not any(part.startswith('_') for part in obj.path.split('.'))


class Docstrings(griffe.Extension):
    """Converts every docstring once the whole package is known, and reports what has none."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Walk the package; every public module, class and function must have a docstring."""
        loader.resolve_aliases(implicit=True, external=False)
        self.convert(pkg, loader.modules_collection)

    def convert(self, obj: Any, found: griffe.ModulesCollection) -> None:
        """Convert the docstring of an object, then those of its members."""

        def link(target: str) -> str | None:
            for path in self.candidates(obj, target):
                try:
                    other = found[path]
                    other = other.final_target if other.is_alias else other
                except (KeyError, griffe.GriffeError):
                    continue
                if is_public(other) and (other.docstring or other.is_module):
                    return other.path
            return None

        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value, link)
        elif is_public(obj) and not obj.is_attribute:
            log.warning('%s has no docstring.', obj.path)
        for member in obj.members.values():
            if not member.is_alias and not member.name.startswith('__'):
                self.convert(member, found)

    @staticmethod
    def candidates(obj: griffe.Object, target: str) -> list[str]:
        """List the full names that a name in a docstring may have, the nearest first."""
        names = [target]
        scope: Any = obj
        while scope is not None:
            names.append(f'{scope.path}.{target}')
            scope = scope.parent
        with suppress(griffe.GriffeError):  # a name that the file does not have
            names.append(obj.resolve(target))
        return names
