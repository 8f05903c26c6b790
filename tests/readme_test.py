"""The Python of the README runs as it is written."""

import pathlib
import re

import pytest

_README = pathlib.Path(__file__).parents[1] / 'README.md'


@pytest.mark.slow
@pytest.mark.usefixtures('compile_quickly')
def test_python_blocks_run(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  blocks = re.findall(
    r'^```python\n(.*?)^```$', _README.read_text(), re.M | re.S
  )
  assert len(blocks) == 2
  names = {}
  for block in blocks:  # Each goes on from the one before.
    exec(compile(block, _README, 'exec'), names)
  printed = capsys.readouterr().out
  # Steps of each stage, then the scores of both IPCs and of Alg. 4.
  assert re.search(r"^8 \{'first_loss'", printed, re.M)
  assert 'heldout_loss' in printed
  scores = re.findall(r'(\d+\.\d+) ± \d+\.\d+ \(n=5\)$', printed, re.M)
  assert len(scores) == 3
  # Ten classes: chance is 10%.
  assert min(map(float, scores)) > 40
  assert (tmp_path / 'runs' / 'cache' / 'manifest.json').exists()
