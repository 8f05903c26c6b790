"""The Python of the README and of the documentation runs as it is written."""

import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(name='run_blocks')
def _run_blocks(tmp_path, monkeypatch, capsys):
  """Runs Python blocks, each from where the one before ended."""
  monkeypatch.chdir(tmp_path)

  def run(*blocks):
    names = {}
    for block in blocks:
      exec(compile(block, 'page', 'exec'), names)
    return capsys.readouterr().out

  return run


def _blocks(page, language='python'):
  """Code of a page; what cannot run here is marked `python notest`."""
  text = (_ROOT / page).read_text()
  return re.findall(rf'^```{language}\n(.*?)^```$', text, re.M | re.S)


def _scores(printed):
  return [
    float(score)
    for score in re.findall(r'(\d+\.\d+) ± \d+\.\d+ \(n=5\)$', printed, re.M)
  ]


def test_the_readme_prints_what_it_shows(run_blocks):
  (block,) = _blocks('README.md')
  real, distilled = _scores(run_blocks(block))
  shown = _scores(_blocks('README.md', 'text')[0])
  # Other versions and devices round otherwise; a network may be more unlike.
  assert (real, distilled) == pytest.approx(tuple(shown), abs=4)
  assert distilled > real + 5
  assert block == _blocks('docs/start.md')[0]
  assert shown == _scores(_blocks('docs/start.md', 'text')[0])


def test_the_whole_method_runs(run_blocks, tmp_path):
  imports = 'import jax\nimport fsdd_jax as fsdd\n'
  _, method, direct = _blocks('docs/start.md')
  printed = run_blocks(imports, method, direct)
  # Steps of each stage, then the scores of both IPCs and of Alg. 4.
  assert re.search(r"^8 \{'first_loss'", printed, re.M)
  assert 'heldout_loss' in printed
  scores = _scores(printed)
  assert len(scores) == 3
  # Ten classes: chance is 10%.
  assert min(scores) > 40
  assert (tmp_path / 'runs' / 'cache' / 'manifest.json').exists()


def test_a_network_of_ones_own_runs(run_blocks):
  (block,) = _blocks('docs/howto/own_network.md')
  (score,) = _scores(run_blocks(block))
  assert score > 40


def test_arrays_of_ones_own_are_read(run_blocks):
  (block,) = _blocks('docs/howto/own_data.md')
  assert run_blocks(block) == "(6, 8, 8, 1) ('black', 'dark')\n"
