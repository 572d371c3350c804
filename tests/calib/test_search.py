"""The search, on a scorer whose figures are known: what it finds, what it remembers, when it stops."""

from __future__ import annotations

import json

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgepose.calib.search import Memory, Search
from edgepose.core.errors import UsageError
from edgepose.graphs.module_names import MODULE
from edgepose.graphs.parts import partition
from edgepose.graphs.quantise import tensors_to_collect
from edgepose.graphs.variants import Choice
from tests.doubles.quantisable import quantisable_model

#: Points that each convolution costs in INT8; everything else costs nothing.
COST = {"stem": 8.0, "block.conv1": 0.05, "block.conv2": 0.0, "down": 2.0, "fuse.up": 0.2, "mix": 0.5}
SUBJECT = {"graph": "a", "backend": "b"}


class Scorer:
    """90 % without INT8, each convolution costs its points; 10 ms, and one less for each convolution in INT8."""

    def __init__(self) -> None:
        self.calls = 0

    def int8(self, model):
        weights = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        return [node.name for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]

    def find(self, model):
        self.calls += 1
        return self.int8(model)

    def accuracy(self, int8):
        return 90.0 - sum(COST[name] for name in int8)

    def latency(self, model):
        self.calls += 1
        return 10.0 - len(self.int8(model))


@pytest.fixture
def make(tmp_path):
    model = quantisable_model()
    ranges = dict.fromkeys(tensors_to_collect(model), 1.0)

    def search(subject=SUBJECT):
        scorer = Scorer()
        return Search(model, Choice(), ranges, scorer, Memory(tmp_path / "figures.json", subject)), scorer

    return search


def test_the_fastest_within_the_budget_is_chosen(make):
    search, _ = make()
    result = search.run(max_drop=0.3, seconds=60)
    assert list(result.sensitivity) == [
        f"{part} int8" for part in ("stem", "down", "mix", "fuse", "block.conv1", "block.conv2")
    ]
    assert [round(drop, 2) for drop in result.sensitivity.values()] == [8.0, 2.0, 0.5, 0.2, 0.05, 0.0]
    assert {part for part, level in result.chosen.levels.items() if level == "int8"} == {
        "fuse",
        "block.conv1",
        "block.conv2",
    }
    assert result.chosen.accuracy == pytest.approx(89.75) and result.chosen.milliseconds == 7.0
    assert result.fp32.accuracy == 90.0 and result.finished
    assert [point.milliseconds for point in result.front] == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert "chosen: 3 parts in fp32, 3 parts in int8, 7.00 ms (1.4 x FP32), accuracy -0.25 points" in str(result)


@pytest.mark.parametrize(("budget", "parts"), [(0.0, 1), (0.1, 2), (1.0, 4), (100.0, 6)])
def test_the_budget_decides(make, budget, parts):
    search, _ = make()
    assert list(search.run(max_drop=budget, seconds=60).chosen.levels.values()).count("int8") == parts


def test_where_the_rest_is_fp16_a_part_has_three_precisions(tmp_path):
    """FP16 costs a tenth of what INT8 does, and is half as fast again as FP32."""

    class Engines(Scorer):
        def levels(self, model):
            types = {value.name: value.data_type for value in model.graph.initializer}
            made = {node.output[0]: node.op_type for node in model.graph.node}
            for name in COST:
                node = next(node for node in model.graph.node if node.name == name)
                if made.get(node.input[1]) == "DequantizeLinear":
                    yield name, "int8"
                else:
                    yield name, "fp16" if types[node.input[1]] == onnx.TensorProto.FLOAT16 else "fp32"

        def find(self, model):
            return list(self.levels(model))

        def accuracy(self, levels):
            share = {"int8": 1.0, "fp16": 0.1, "fp32": 0.0}
            return 90.0 - sum(COST[name] * share[level] for name, level in levels)

        def latency(self, model):
            return sum({"int8": 1.0, "fp16": 2.0, "fp32": 3.0}[level] for _, level in self.levels(model))

    model = quantisable_model()
    ranges = dict.fromkeys(tensors_to_collect(model), 1.0)
    search = Search(model, Choice(rest="fp16"), ranges, Engines(), Memory(tmp_path / "figures.json", SUBJECT))
    result = search.run(max_drop=0.3, seconds=60)
    assert result.chosen.levels == {
        "block.conv1": "int8",
        "block.conv2": "int8",
        "down": "fp32",  # 0.2 points in FP16 are as many as the fuse loses in INT8
        "fuse": "int8",
        "mix": "fp16",
        "stem": "fp32",
    }
    assert result.chosen.accuracy == pytest.approx(89.7) and result.chosen.milliseconds == 11.0
    assert len(result.points) == 13 and result.points[0].count("int8") == 6 and result.points[-1].count("fp32") == 6


def test_what_was_measured_is_not_measured_again(make):
    search, scorer = make()
    first = search.run(max_drop=0.3, seconds=60)
    assert scorer.calls > 10
    search, scorer = make()
    assert search.run(max_drop=0.3, seconds=60) == first
    assert scorer.calls == 0
    search, scorer = make({**SUBJECT, "graph": "another"})
    search.run(max_drop=0.3, seconds=60)
    assert scorer.calls > 10


def test_a_search_that_was_stopped_goes_on(make, monkeypatch):
    search, scorer = make()
    original = Scorer.accuracy

    def interrupted(self, int8):
        if self.calls > 4:
            raise KeyboardInterrupt
        return original(self, int8)

    monkeypatch.setattr(Scorer, "accuracy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search.run(max_drop=0.3, seconds=60)
    measured = scorer.calls - 1
    monkeypatch.setattr(Scorer, "accuracy", original)
    search, scorer = make()
    assert search.run(max_drop=0.3, seconds=60).finished
    whole, fresh = make({"graph": "fresh"})
    whole.run(max_drop=0.3, seconds=60)
    assert scorer.calls == fresh.calls - measured


def test_without_time_nothing_is_given_up(make):
    search, _ = make()
    result = search.run(max_drop=0.3, seconds=0)
    assert result.chosen == result.fp32 and not result.finished
    assert "the time limit ended the search: run it again to continue" in str(result)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"subject": 3}', '{"subject": {"graph": "a", "backend": "b"}, "figures": []}']
)
def test_a_damaged_memory_is_begun_anew(tmp_path, content):
    path = tmp_path / "figures.json"
    path.write_text(content)
    assert Memory(path, SUBJECT).recall("ap", {"x": "int8"}, lambda: 3.0) == 3.0
    assert json.loads(path.read_text())["subject"] == SUBJECT
    assert Memory(path, SUBJECT).recall("ap", {"x": "int8"}, lambda: 4.0) == 3.0


def test_large_modules_are_split_and_small_ones_are_not():
    graph = onnx.GraphProto()
    modules = [f"stage.{i}.conv{j}" for i in range(3) for j in range(10)] + ["tail.a", "tail.b"]
    for module in modules:
        node = graph.node.add(name=f"node_{module}", op_type="Conv")
        node.metadata_props.add(key=MODULE, value=module)
    parts = partition(list(graph.node))
    assert sorted(name for names in parts.values() for name in names) == sorted(f"node_{module}" for module in modules)
    assert parts["tail"] == ["node_tail.a", "node_tail.b"]
    assert parts["stage.1.conv3"] == ["node_stage.1.conv3"]  # of 32, a part may hold 2


def test_a_graph_that_does_not_know_all_its_modules_is_refused():
    known, unknown = (onnx.NodeProto(name=name, op_type="Conv") for name in ("conv6", "conv7"))
    known.metadata_props.add(key=MODULE, value="stage")
    with pytest.raises(UsageError, match=r"node conv7 has no module path, .*: export the bundle again"):
        partition([known, unknown])


def test_without_modules_convolutions_are_taken_by_runs():
    nodes = [onnx.NodeProto(name=f"conv{number}", op_type="Conv") for number in range(33)]
    parts = partition(nodes)  # of 33, a part may hold 2
    assert [name for names in parts.values() for name in names] == [node.name for node in nodes]
    assert parts["conv0..conv1"] == ["conv0", "conv1"] and parts["conv32"] == ["conv32"]
