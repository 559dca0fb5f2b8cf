"""A model judged on people that it was trained on, or with embeddings of another model."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from centerarc.curate import embed_to_file
from centerarc.data import FolderSource, write_identities
from centerarc.evaluation.files import open_pair_set, read_pair_list
from centerarc.evaluation.protocols import (
    ModelSubject,
    SearchSettings,
    evaluate_galleries,
    evaluate_pairs,
)
from centerarc.evaluation.protocols.subject import trained_people, warn_of_trained_people
from centerarc.models import OpenedModel, Preprocessing, create_model, open_model, save_weights
from centerarc.models.onnx_graph import METADATA_KEY, graph_sha256
from centerarc.report import write_evaluation_page
from tests.evaluation.protocols.faces import embeddings, folder, model, picture, subject


@pytest.fixture
def judged(tmp_path):
    """Pairs of Ann and Bob, judged from embeddings."""
    faces = {"Ann/1.png": [3, 1], "Ann/2.png": [2, 1], "Bob/1.png": [1, 3], "Bob/2.png": [1, 4]}
    pairs = tmp_path / "pairs.csv"
    rows = ["image_a,image_b,same", "Ann/1.png,Ann/2.png,1", "Ann/1.png,Bob/1.png,0"]
    pairs.write_text("\n".join(rows), encoding="utf-8")
    return evaluate_pairs(subject([(name, name[:3], at) for name, at in faces.items()]), pairs)


def test_people_that_were_trained_on_are_counted_and_named(judged):
    found = warn_of_trained_people(judged, ["Zed", "Bob"])
    assert found.data["people_trained_on"] == ["Bob"]
    assert "1 of the 2 people have the name of somebody" in found.notes[0]


def test_the_page_says_so_before_all_numbers_and_names_nobody(judged, tmp_path):
    unseen = dataclasses.replace(judged.images, places=[""] * len(judged.images.places))
    found = warn_of_trained_people(dataclasses.replace(judged, images=unseen), ["Bob"])
    write_evaluation_page(tmp_path / "page.html", found)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.index("1 of the 2 people have the name") < text.index('id="numbers"')
    assert "Bob" not in text


def test_others_give_no_note(judged):
    found = warn_of_trained_people(judged, ["Zed"])
    assert (found.data["people_trained_on"], found.notes) == ([], judged.notes)
    assert warn_of_trained_people(judged, []) is judged


def test_names_are_those_beside_the_weights(tmp_path):
    file = tmp_path / "run" / "best.safetensors"
    file.parent.mkdir()
    save_weights(file, create_model("mobilefacenet_small", embedding_size=8, image_size=16))
    assert trained_people(file) == []
    write_identities(tmp_path / "run" / "people.txt", ["Ann", "Cyd"])
    assert ModelSubject(open_model(tmp_path / "run")).trained_on == ["Ann", "Cyd"]


def exported(path: Path, made_of: str, note: str = "") -> OpenedModel:
    """An ONNX file as ours that says of which weights it was made."""
    content = onnx.load(model(path))
    content.graph.initializer.add(name=made_of, data_type=1, dims=[1], float_data=[1])
    graph = graph_sha256(copy.deepcopy(content), path)
    facts = {**Preprocessing(4).to_dict(), "weights_sha256": made_of, "note": note}
    facts["graph_sha256"] = graph
    content.metadata_props.add(key=METADATA_KEY, value=json.dumps(facts))
    onnx.save(content, path)
    return open_model(path)


def test_a_gallery_of_another_model_is_refused_and_one_of_the_same_weights_is_not(tmp_path):
    faces, probes = folder(tmp_path / "known"), folder(tmp_path / "asked", images=1)
    one, again = (exported(tmp_path / f"{name}.onnx", "ab" * 32, name) for name in ("one", "two"))
    other = exported(tmp_path / "other.onnx", "cd" * 32)
    assert one.sha256 != again.sha256
    embed_to_file(one, FolderSource(faces, image_size=4), tmp_path / "known.npz", workers=0)
    with pytest.raises(ValueError, match=r"known\.npz.*asked.*are of different models"):
        evaluate_galleries(ModelSubject(other), tmp_path / "known.npz", probes)
    found = evaluate_galleries(ModelSubject(again), tmp_path / "known.npz", probes)
    assert found.identification.report.cmc[1].value is not None
    # The same pictures in another folder are found out; another picture of the same name is none.
    assert found.notes[0].startswith("6 of 6 probes are also in the gallery")
    picture(probes / "Ann" / "Ann_0001.png", "Ann", 7)
    found = evaluate_galleries(ModelSubject(one), tmp_path / "known.npz", probes)
    assert found.notes[0].startswith("5 of 6 probes are also in the gallery")
    with pytest.raises(ValueError, match="are of different mirror sums"):
        evaluate_galleries(ModelSubject(one, mirror=True), tmp_path / "known.npz", probes)


def halved(path: Path, source: Path) -> OpenedModel:
    """A copy with one weight in half precision, with all metadata kept, as other tools keep it."""
    content = onnx.load(source)
    for tensor in content.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor) + np.float32(2**-20)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(content, path)
    return open_model(path)


def test_a_quantized_copy_is_another_model_though_its_metadata_says_the_same(tmp_path):
    faces, probes = folder(tmp_path / "known"), folder(tmp_path / "asked", images=1)
    whole = exported(tmp_path / "whole.onnx", "ab" * 32)
    copied = halved(tmp_path / "half.onnx", tmp_path / "whole.onnx")
    assert whole.identity == {"weights_sha256": "ab" * 32}
    assert copied.identity == {
        "weights_sha256": copied.embedder.graph_sha256,
        "origin_sha256": "ab" * 32,
    }
    for first, second in ((whole, copied), (copied, whole)):
        out = tmp_path / f"{first.path.stem}.npz"
        embed_to_file(first, FolderSource(faces, image_size=4), out, workers=0)
        with pytest.raises(ValueError, match="different models: one was quantized or changed"):
            evaluate_galleries(ModelSubject(second), out, probes)
        found = evaluate_galleries(ModelSubject(first), out, probes)
        assert found.model.get("origin_sha256") == first.identity.get("origin_sha256")
        write_evaluation_page(tmp_path / "page.html", found)
        said = f"made of the weights with SHA-256 {'ab' * 32}"
        assert (said in (tmp_path / "page.html").read_text(encoding="utf-8")) == (first is copied)


# A name in Unicode's composed form, as most lists have it, and decomposed, as a Mac's folders.
COMPOSED, DECOMPOSED = "Zo\u00eb", "Zoe\u0308"


def known_and_asked(tmp_path, known, asked, others=()):
    """Files of embeddings: a gallery, probes, and distractors if there are some."""
    rng = np.random.default_rng(0)
    files = {}
    for name, people in {"gallery": known, "probes": asked, "distractors": others}.items():
        if people:
            rows = [(f"{name}/{n}", who, rng.normal(size=4)) for n, who in enumerate(people)]
            files[name] = embeddings(tmp_path / f"{name}.npz", rows)
    return files


def test_enrolled_people_are_found_whatever_the_form_or_case_of_their_names(tmp_path):
    files = known_and_asked(tmp_path, ["Bob", COMPOSED, "Cyd"], [DECOMPOSED, "bob", "Dan"])
    found = evaluate_galleries(None, **files, settings=SearchSettings(ranks=(1,), resamples=0))
    assert found.identification.report.mated == [2]
    assert found.identification.report.nonmated == [1]
    assert found.notes[0].startswith("1 name is taken for that of another place")
    assert found.to_dict()["data"]["names_alike"] == {"taken_for_one": [("Bob", "bob")]}
    write_evaluation_page(tmp_path / "page.html", found)
    assert "bob" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_distractors_with_the_name_of_an_enrolled_person_are_told(tmp_path):
    files = known_and_asked(tmp_path, ["Bob", COMPOSED], ["Bob", "Cyd"], [DECOMPOSED, "Eve", "cyd"])
    found = evaluate_galleries(None, **files, settings=SearchSettings(ranks=(1,), resamples=0))
    assert found.identification.report.distractors == [4]
    (note,) = found.notes
    assert note.startswith("2 people of the distractors have the name of somebody in the gallery")
    assert found.data["names_alike"] == {"distractors": [DECOMPOSED, "cyd"]}


def test_what_a_gallery_left_out_is_told(tmp_path):
    faces, probes = folder(tmp_path / "known"), folder(tmp_path / "asked", "Ann Bob", images=3)
    (faces / "Ann" / "phone.heic").write_bytes(b"....ftypheic")
    judged_by = ModelSubject(exported(tmp_path / "m.onnx", "ab" * 32))
    found = evaluate_galleries(judged_by, faces, probes)
    assert any("known: 12 images" in n and "1 a format that is not read" in n for n in found.notes)


@pytest.mark.parametrize("trained", [DECOMPOSED, COMPOSED.upper(), f"web/{DECOMPOSED}"])
def test_people_trained_on_are_known_by_any_spelling_of_their_names(tmp_path, trained):
    rows = [(f"{COMPOSED}/1", COMPOSED, [3, 1]), (f"{COMPOSED}/2", COMPOSED, [2, 1])]
    rows.append(("Bob/1", "Bob", [1, 3]))
    pairs = tmp_path / "pairs.csv"
    lines = [f"{COMPOSED}/1,{COMPOSED}/2,1", f"{COMPOSED}/1,Bob/1,0"]
    pairs.write_text("\n".join(["image_a,image_b,same", *lines]), encoding="utf-8")
    found = warn_of_trained_people(evaluate_pairs(subject(rows), pairs), [trained])
    assert found.data["people_trained_on"] == [COMPOSED]


def test_images_are_found_whatever_the_form_of_their_names(tmp_path):
    rows = [(f"{DECOMPOSED}/{DECOMPOSED}_{n:04d}.png", "Z", [n, 1]) for n in (1, 2)]
    rows.append(("Bob/Bob_0001.png", "Bob", [1, 9]))
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(f"1\n{COMPOSED}\t1\t2\n{COMPOSED}\t1\tBob\t1\n", encoding="utf-8")
    by_place = evaluate_pairs(subject(rows), pairs)
    for place, _, _ in rows:
        picture(tmp_path / "faces" / place, "Ann", len(place))
    by_file = open_pair_set(pairs, images=tmp_path / "faces")
    assert [by_file.place(n) for n in range(3)] == [place for place, _, _ in rows]
    assert by_place.images.places == by_file._names
    listed = tmp_path / "pairs.csv"
    line = f"{COMPOSED}/{COMPOSED}_0001.png,{COMPOSED}/{COMPOSED}_0002.png,1"
    listed.write_text(f"image_a,image_b,same\n{line}\n", encoding="utf-8")
    found = open_pair_set(listed, images=tmp_path / "faces")
    assert found.image(1).shape == (8, 8, 3)


def test_a_file_of_pairs_may_hold_both_forms_of_a_name(tmp_path):
    for number in (1, 2):
        picture(tmp_path / DECOMPOSED / f"{DECOMPOSED}_{number:04d}.png", "Ann", number)
    picture(tmp_path / "Bob" / "Bob_0001.png", "Bob", 1)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(f"1\n{DECOMPOSED}\t1\t2\n{COMPOSED}\t1\tBob\t1\n", encoding="utf-8")
    found = open_pair_set(pairs, images=tmp_path)
    assert (len(found), len(found.identities)) == (3, 2)
    listed = tmp_path / "pairs.csv"
    rows = [f"x,y,1,{COMPOSED},{DECOMPOSED}", f"x,z,0,{DECOMPOSED},Bob"]
    names = "image_a,image_b,same,person_a,person_b"
    listed.write_text("\n".join([names, *rows]), encoding="utf-8")
    assert read_pair_list(listed).everyone() == {COMPOSED, "Bob"}
