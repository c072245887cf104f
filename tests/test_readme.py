"""What the README shows is what the commands print."""

import json
import re

import pytest

from tests.shared import ROOT

README = (ROOT / 'README.md').read_text()
DEMO = ROOT / 'demo_run'
# Error rates in percent after minutes of training on few images: processors that round differently
# end some images apart. The layout, the paper's figures and the findings are held exactly.
TOLERANCE = 3.0


def block(name: str, text: str = README) -> str:
    begin, end = f'<!-- {name}:begin -->', f'<!-- {name}:end -->'
    assert text.count(begin) == text.count(end) == 1
    return text.partition(begin)[2].partition(end)[0].strip()


def split_figures(text: str) -> tuple[str, list[float]]:
    """The text without its decimal figures, and those; without what computed them, too."""
    text = re.sub(r'\n\n- computed on .*', '', text)
    figures = re.findall(r'\d+\.\d+', text)
    return re.sub(r'\d+\.\d+', '#', text), [float(figure) for figure in figures]


@pytest.mark.parametrize('path', ['table_demo.md', 'lenet5/result.json'])
def test_the_demo_is_as_shown(path: str) -> None:
    if not (DEMO / path).exists():
        pytest.skip('no finished `make demo` here to hold the README against')
    shown = block('demo')
    if path.endswith('.md'):
        printed = (DEMO / path).read_text().strip()
    else:
        result = json.loads((DEMO / path).read_text())
        printed = f'top-1 error {result["top1_error"]:.2f} % on {result["images"]} digits'
        shown = re.search(r'top-1 error \d+\.\d+ % on \d+ digits', shown)[0]
    shown_text, shown_figures = split_figures(shown[shown.index(printed[:40].split('#')[0][:12]) :])
    printed_text, printed_figures = split_figures(printed)
    assert shown_text.startswith(printed_text), 'README.md is stale: run `make demo`'
    for ours, theirs in zip(shown_figures, printed_figures, strict=False):
        assert abs(ours - theirs) <= TOLERANCE, 'README.md is stale: run `make demo`'


def test_every_file_and_config_named_exists() -> None:
    for path in re.findall(r'(?:configs|cnn_arch|benchmarks|tests|launch)/[\w/]+\.py', README):
        assert (ROOT / path).exists(), path
    for module in re.findall(r'python -m (cnn_arch[\w.]*)', README):
        path = ROOT / module.replace('.', '/')
        assert path.with_suffix('.py').exists() or (path / '__main__.py').exists(), module


def test_every_variant_named_exists() -> None:
    from cnn_arch import configuration

    for name in set(re.findall(r'configs/\w+\.py:[\w-]+', README)):
        configuration.load(str(ROOT / name))


def test_the_cost_of_input_is_as_stored() -> None:
    from benchmarks import input as benchmark

    stored = json.loads((ROOT / 'benchmarks' / 'results' / 'input.json').read_text())
    assert block('input') == benchmark.markdown(stored).strip(), (
        'README.md is stale: python benchmarks/input.py --markdown=benchmarks/results/input.json'
    )


def test_the_cost_of_dense_evaluation_is_as_stored() -> None:
    from benchmarks import dense

    stored = json.loads((ROOT / 'benchmarks' / 'results' / 'dense.json').read_text())
    assert block('dense') == dense.markdown(stored).strip(), (
        'README.md is stale: python benchmarks/dense.py --markdown=benchmarks/results/dense.json'
    )
    # Dense evaluation at three scales costs at most a tenth of 150 crops.
    cost = {row['label']: row['cpu'] for row in stored['warm']}
    assert cost['dense, Q = 224, 256, 288'] <= cost['150 crops, Q = 256, 384, 512'] / 10


def test_rounding_is_as_stored() -> None:
    from benchmarks import rounding

    stored = json.loads((ROOT / 'benchmarks' / 'results' / 'rounding.json').read_text())
    page = (ROOT / 'docs' / 'numbers.md').read_text()
    assert block('rounding', page) == rounding.markdown(stored).strip(), (
        'docs/numbers.md is stale: '
        'python benchmarks/rounding.py --markdown=benchmarks/results/rounding.json'
    )


def test_the_sample_is_as_stored() -> None:
    stored = (ROOT / 'benchmarks' / 'results' / 'resnet50_sample.md').read_text()
    assert block('resnet50') == stored.strip(), 'README.md is stale: see the command beside it'
    assert ' of 50,000' in stored


def test_every_protocol_and_table_is_named() -> None:
    from cnn_arch.evaluation.protocols import PROTOCOLS

    section = README.partition('## Evaluation')[2].partition('\n## ')[0]
    named = set(re.findall(r'`(\w+)`', section))
    assert named >= PROTOCOLS.keys()
