"""Every method computes what was recorded: losses, gradients and ten steps, in float64."""

import json
from pathlib import Path

import behaviour
import pytest

RECORD = json.loads((Path(__file__).parent / 'behaviour.json').read_text())


def test_every_method_is_recorded():
    assert RECORD.keys() == behaviour.METHODS.keys()


@pytest.mark.parametrize('name', behaviour.METHODS)
def test_a_method_computes_what_was_recorded(name, tmp_path):
    assert behaviour.difference(RECORD[name], behaviour.run(name, tmp_path)) < 1e-9
