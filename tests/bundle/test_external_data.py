"""Weights in other files are found wherever a model may hold a tensor, and refused on every backend."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from edgepose.backends.plan import open_graph
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.external_data import has_external_data, refuse_external_data
from edgepose.bundle.manifest import read_manifest
from edgepose.core.errors import UsageError
from edgepose.detectors.kinds import open_detector
from edgepose.runtime.pose import load
from tests.doubles.pose_network import make_bundle

#: Puts a tensor somewhere into a model.
Place = Callable[[ModelProto, TensorProto], object]


def tensor(*, external: bool) -> TensorProto:
    made = numpy_helper.from_array(np.arange(6, dtype=np.float32), "location")
    if external:
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value="weights.bin")
        made.ClearField("raw_data")
    return made


def attribute(value: TensorProto) -> AttributeProto:
    return helper.make_attribute("value", value)


def graph_with(value: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([], "branch", [], [], [value])


def add_node(graph: onnx.GraphProto, *attributes: AttributeProto) -> onnx.NodeProto:
    node = graph.node.add(op_type="Constant", name="n", output=["y"], doc_string="location")
    node.attribute.extend(attributes)
    return node


PLACES: dict[str, Place] = {
    "initialiser": lambda model, value: model.graph.initializer.append(value),
    "sparse values": lambda model, value: model.graph.sparse_initializer.add(dims=[9]).values.CopyFrom(value),
    "sparse indices": lambda model, value: model.graph.sparse_initializer.add(dims=[9]).indices.CopyFrom(value),
    "constant": lambda model, value: add_node(model.graph, attribute(value)),
    "list of tensors": lambda model, value: add_node(
        model.graph, AttributeProto(name="v", type=AttributeProto.TENSORS, tensors=[value])
    ),
    "sparse constant": lambda model, value: add_node(
        model.graph,
        AttributeProto(name="v", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=onnx.SparseTensorProto(values=value)),
    ),
    "list of sparse tensors": lambda model, value: add_node(
        model.graph,
        AttributeProto(
            name="v", type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[onnx.SparseTensorProto(values=value)]
        ),
    ),
    "subgraph": lambda model, value: add_node(model.graph, helper.make_attribute("then", graph_with(value))),
    "subgraph of a subgraph": lambda model, value: add_node(
        model.graph,
        helper.make_attribute(
            "then",
            helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph_with(value))], "outer", [], []),
        ),
    ),
    "list of subgraphs": lambda model, value: add_node(
        model.graph, AttributeProto(name="v", type=AttributeProto.GRAPHS, graphs=[graph_with(value)])
    ),
    "constant in a function": lambda model, value: (
        model.functions.add(name="f", domain="d").node.add(op_type="Constant").attribute.append(attribute(value))
    ),
    "default of a function": lambda model, value: model.functions.add(name="f", domain="d").attribute_proto.append(
        attribute(value)
    ),
    "training": lambda model, value: model.training_info.add().algorithm.initializer.append(value),
    "start of training": lambda model, value: model.training_info.add().initialization.initializer.append(value),
}


def model_with(place: Place, value: TensorProto) -> ModelProto:
    """A model with much around the tensor."""
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.ones((3, 3), np.float32), "before")])
    for i in range(3):
        add_node(graph, helper.make_attribute("pads", [1, 2]), helper.make_attribute("alpha", 0.5 + i))
    model = helper.make_model(graph, producer_name="location", doc_string="location")
    place(model, value)
    graph = model.graph
    graph.initializer.append(helper.make_tensor("ints", TensorProto.INT32, [4], [0, 1, 300, -5]))
    add_node(graph, helper.make_attribute("text", "location"), helper.make_attribute("floats", [0.5, 2.0]))
    helper.set_model_props(model, {"location": "weights.bin"})
    return model


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_found(place: str) -> None:
    found = {external: model_with(PLACES[place], tensor(external=external)) for external in (False, True)}
    assert {external: has_external_data(model.SerializeToString()) for external, model in found.items()} == {
        False: False,
        True: True,
    }


@pytest.mark.parametrize("field", ["data_location", "external_data"])
def test_either_half_of_the_statement_is_enough(field: str) -> None:
    value = tensor(external=True)
    value.ClearField(field)
    assert has_external_data(model_with(PLACES["initialiser"], value).SerializeToString())


def test_a_model_that_says_default_is_whole() -> None:
    value = tensor(external=False)
    value.data_location = TensorProto.DEFAULT
    assert not has_external_data(model_with(PLACES["initialiser"], value).SerializeToString())


@pytest.mark.parametrize("place", ["initialiser", "constant in a function"])
def test_unknown_fields_hide_nothing(place: str) -> None:
    """Groups, fixed numbers, broken messages, and a graph that comes in two parts, as protobuf allows."""
    whole = model_with(PLACES[place], tensor(external=False)).SerializeToString()
    hidden = model_with(PLACES[place], tensor(external=True)).SerializeToString()
    for before in (
        b"\xa3\x06\x08\x05\x13\x0a\x01x\x14\xa4\x06",  # field 100, a group, which holds a group
        b"\xa1\x06" + b"\xff" * 8,  # field 100, eight bytes
        b"\xa5\x06" + b"\xff" * 4,  # field 100, four bytes
        b"\x38\x05",  # field 7, the graph's, but laid out as a number
        b"\xa2\x01\x02\xff\xff",  # field 20, the training's, but no message
    ):
        assert not has_external_data(before + whole)
        assert has_external_data(before + hidden)
        assert has_external_data(whole + before + hidden)
    assert not has_external_data(whole + b"\xa3\x06\x08\x05")  # a group that does not end


@pytest.mark.parametrize("data", [b"", b"hello", b"location", b"\x3a\xff\xff\xff\xff\x0flocation", b"\xff" * 20])
def test_what_is_no_model_has_none(data: bytes, tmp_path: Path) -> None:
    assert not has_external_data(data)
    (tmp_path / "x.onnx").write_bytes(data)
    refuse_external_data(tmp_path / "x.onnx")  # whoever opens it says what is wrong


def test_a_model_that_is_cut_anywhere_ends_the_search() -> None:
    data = model_with(PLACES["subgraph"], tensor(external=True)).SerializeToString()
    assert {has_external_data(data[:end]) for end in range(len(data))} == {False, True}


def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=r"^cannot read \S+x\.onnx: Permission denied$"):
        refuse_external_data(tmp_path / "x.onnx")


@pytest.fixture(params=["relative", "linked", "absolute", "device"])
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The tiny network with its weights in another file."""
    bundle = make_bundle(tmp_path / "tiny.edgepose", crops=1)
    path = {"relative": "w.bin", "linked": "w.bin", "absolute": str(tmp_path / "w.bin"), "device": "/dev/zero"}
    model = onnx.load(bundle.graph)
    for weight in model.graph.initializer:
        weight.external_data.add(key="location", value=path[request.param])
        weight.external_data.add(key="length", value=str(len(weight.raw_data)))
        weight.data_location = TensorProto.EXTERNAL
    (tmp_path / "w.bin").write_bytes(b"".join(weight.raw_data for weight in model.graph.initializer))
    if request.param == "relative":
        os.link(tmp_path / "w.bin", bundle.path / "w.bin")
    elif request.param == "linked":
        (bundle.path / "w.bin").symlink_to(tmp_path / "w.bin")
    for weight in model.graph.initializer:
        weight.ClearField("raw_data")
    bundle.graph.write_bytes(model.SerializeToString())
    return bundle.graph


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch", "tensorrt", "tensorrt-rtx", "auto"])
def test_weights_beside_the_graph_are_refused_on_every_backend(graph: Path, backend: str) -> None:
    Bundle(graph.parent, read_manifest(graph.parent)).with_files(graph)
    sentence = (
        rf"^{graph} keeps weights in other files, expected all in one file: put them into it with "
        r"python -c \"import onnx; onnx.save\(onnx.load\('pose.onnx'\), 'whole.onnx'\)\"$"
    )
    with pytest.raises(UsageError, match=sentence):
        load(graph.parent, backend)
    with pytest.raises(UsageError, match=sentence):
        open_bundle(graph.parent)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_weights_beside_a_detectors_file_are_refused(graph: Path, backend: str) -> None:
    for opened in (open_graph, open_detector):
        with pytest.raises(UsageError, match=r"pose\.onnx keeps weights in other files"):
            opened(graph, backend)


def test_a_graph_of_another_precision_is_looked_at_as_well(graph: Path) -> None:
    moved = graph.with_name("pose.fp16.onnx")
    graph.replace(moved)
    whole = make_bundle(graph.parent.parent / "whole.edgepose", crops=1)
    moved = moved.replace(whole.path / moved.name)
    whole.with_files(moved)
    with pytest.raises(UsageError, match=r"pose\.fp16\.onnx keeps weights in other files"):
        open_bundle(whole.path)
