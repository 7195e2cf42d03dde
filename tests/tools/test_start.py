"""mmcds.cli: libraries are imported without a search for garbage, which goes on for what is made later."""

import gc
import weakref

import mmcds.cli  # noqa: F401


def test_imported_libraries_are_not_searched_for_garbage_but_what_is_made_later_is():
    assert gc.get_freeze_count() > 100_000
    assert gc.isenabled()
    cycle = type('Cycle', (), {})()
    cycle.itself, seen = cycle, weakref.ref(cycle)
    del cycle
    gc.collect()
    assert seen() is None
