"""rewards.prefer.dedup: components against brute force, and embeddings whose similarities are known."""

import io
import json
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from rewards.prefer import rows
from rewards.prefer.dedup import components, deduplicate
from rewards.prefer.embeddings import ClipVectors, ngram_vectors, perceptual_hashes
from rewards.prefer.recipe import CandidateSource, DedupSection, SimilaritySection
from tests.support.scores import tiny_clip
from tests.support.scores.fake_judge import put_rows
from vlm.common.errors import RecipeError


def brute_force(vectors, threshold):
    """The first member of each vector's component, by walking along all pairs."""
    near = vectors @ vectors.T >= threshold - 1e-6
    labels = [-1] * len(vectors)
    for start in range(len(vectors)):
        if labels[start] == -1:
            waiting = [start]
            while waiting:
                here = waiting.pop()
                if labels[here] == -1:
                    labels[here] = start
                    waiting += [there for there in np.flatnonzero(near[here]) if there != here]
    return labels


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [7, 20, 1000])
@pytest.mark.parametrize("threshold", [0.9, 0.97, 1.0])
def test_components_against_brute_force(block, threshold):
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(80, 4)))
    vectors[rng.integers(0, 80, 20)] = vectors[rng.integers(0, 80, 20)]
    expected = brute_force(vectors, threshold)
    assert 1 < len(set(expected)) < 80
    assert components(vectors, threshold, block).tolist() == expected
    assert components(sparse.csr_array(vectors), threshold, block).tolist() == expected


def test_chains_join_and_zeros_do_not():
    """Vectors 10° apart: neighbours have cosine 0.985, the ends 0; a chain of any order is one component."""
    angles = np.deg2rad([0, 30, 90, 10, 20, 60, 70, 50, 40, 80])
    chain = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert components(chain, 0.98, 3).tolist() == [0] * 10
    assert components(np.delete(chain, 7, 0), 0.98, 2).tolist() == [0, 0, 2, 0, 0, 2, 2, 0, 2]  # without 50°
    assert components(np.zeros((3, 2), np.float32), 0.5).tolist() == [0, 1, 2]
    assert components(np.zeros((0, 2), np.float32), 0.5).tolist() == []


def test_no_table_of_all_pairs_is_held():
    """6,000² similarities would be 144 MB; blocks of 256 take a hundredth, even where all are duplicates."""
    vectors = np.tile(np.float32([[0.6, 0.8]]), (6000, 1))
    tracemalloc.start()
    labels = components(vectors, 0.9, 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not labels.any() and peak < 6_000_000


def encoded(picture, **options):
    file = io.BytesIO()
    picture.save(file, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def scenes():
    from demo.world.render import render
    from demo.world.scene import scene

    return [render(scene(seed)) for seed in range(20)]


def test_hashes_know_copies_from_other_scenes(scenes):
    originals = perceptual_hashes([encoded(scene, format="PNG") for scene in scenes])
    assert originals.shape == (20, 255) and np.allclose((originals**2).sum(1), 1)
    copies = perceptual_hashes(
        [encoded(scene.resize((180, 180), Image.BICUBIC), format="JPEG", quality=80) for scene in scenes]
    )
    same, others = (originals * copies).sum(1), originals @ originals.T - 2 * np.eye(20)
    assert same.min() > 0.9 and others.max() < 0.9
    brighter = [encoded(scene.point(lambda value: 0.7 * value + 20), format="PNG") for scene in scenes]
    assert (originals * perceptual_hashes(brighter)).sum(1).min() > 0.9


def test_featureless_images_are_like_nothing():
    flat = [encoded(Image.new("RGB", (50, 50), colour), format="PNG") for colour in ("blue", "blue", "black")]
    assert not perceptual_hashes(flat).any()


def test_ngram_vectors_against_counting():
    """The same TF-IDF, from dictionaries of the n-grams themselves."""
    texts = ["Two ships.", "two  ships", "Three ships at a pier", "ab", "", "…ß"]
    plain = ["two ships", "two ships", "three ships at a pier", "ab", "", "...ss"]
    counts = [
        Counter(t[i : i + n] for n in (3, 4) for i in range(max(1, len(t) - n + 1))) if t else Counter() for t in plain
    ]
    frequency = Counter(gram for row in counts for gram in row)
    weighted = [{g: c * (math.log(7 / (1 + frequency[g])) + 1) for g, c in row.items()} for row in counts]

    def cosine(a, b):
        dot = sum(value * b.get(gram, 0) for gram, value in a.items())
        return dot / math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()) or 1)

    expected = [[cosine(a, b) for b in weighted] for a in weighted]
    table = ngram_vectors(texts)
    assert (table @ table.T).toarray() == pytest.approx(np.array(expected), abs=1e-6)
    assert components(table, 0.95).tolist() == [0, 0, 2, 3, 4, 5]
    assert ngram_vectors(["", ""]).nnz == 0 and ngram_vectors([]).shape[0] == 0


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(tiny_clip.build(tmp_path_factory.mktemp("clip")))


def test_clip_vectors_do_not_depend_on_the_batch(clip, scenes, monkeypatch):
    pictures = [encoded(scene, format="PNG") for scene in scenes[:5]]
    model = ClipVectors(clip)
    together = model.images([*pictures, pictures[0]])
    assert together.shape == (6, 16) and np.allclose((together**2).sum(1), 1, atol=1e-5)
    assert np.allclose(together[0], together[5], atol=1e-6) and not np.allclose(together[0], together[1], atol=1e-3)
    monkeypatch.setattr("rewards.prefer.embeddings.CLIP_BATCH", 2)
    assert np.allclose(model.images([*pictures, pictures[0]]), together, atol=1e-5)
    texts = ["ship", "a pier " * 20, "ship"]
    vectors = model.texts(texts)
    assert np.allclose(vectors[0], vectors[2], atol=1e-6) and not np.allclose(vectors[0], vectors[1], atol=1e-3)
    assert components(vectors, 0.99999).tolist() == [0, 1, 0]


def test_no_clip_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match="dedup: no CLIP checkpoint can be read from"):
        ClipVectors(str(tmp_path))


def test_what_is_left_of_the_rows(tmp_path, scenes, clip):
    """Several questions about one file stay; a copy of the file goes; then equal texts go, the first stays."""
    first, copy, other = scenes[0], scenes[0].resize((200, 200)), scenes[1]
    put_rows(tmp_path, [])
    for name, picture in (("first.png", first), ("copy.png", copy), ("other.png", other)):
        picture.save(tmp_path / name)
    written = [
        {"id": "1", "images": ["first.png"], "candidates": ["Two ships lie here.", "A harbour with cranes."]},
        {"id": "2", "images": ["first.png"], "candidates": ["Six planes on grass.", "An airport, no planes."]},
        {"id": "3", "images": ["copy.png"], "candidates": ["Something else.", "Something else again."]},
        {"id": "4", "images": ["other.png"], "candidates": ["two ships lie here", "A harbour with cranes"]},
        {"id": "5", "images": ["other.png", "copy.png"], "candidates": ["A bridge.", "Many cars."]},
        {"id": "6", "images": ["other.png"], "candidates": ["A stadium beside a road.", "Fields."]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"task": "caption", "question": "", **row}) + "\n" for row in written))
    found = rows.collect([CandidateSource(path=str(path))], "error")

    def left(**section):
        result = deduplicate(found, DedupSection(**section))
        return "".join(item.sample.id for item in result.items), result.image_duplicates, result.text_duplicates

    by = SimilaritySection(threshold=0.8)
    assert left() == ("123456", 0, 0)
    assert left(images=by) == ("1246", 2, 0)
    assert left(texts=by) == ("12356", 0, 1)
    assert left(images=by, texts=by) == ("126", 2, 1)
    assert (
        left(images=SimilaritySection(clip=clip, threshold=1.0), texts=SimilaritySection(clip=clip, threshold=1.0))[0][
            :2
        ]
        == "12"
    )
