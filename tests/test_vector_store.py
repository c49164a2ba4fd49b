"""The vector store: versions, keys, encoders kept apart, and text vectors that are never lost."""

import numpy as np
import pyarrow as pa
import pytest

from include.columns import VectorTable
from include.errors import BadInput
from include.stores import vectors

ENCODER = "tiny-000000000001"
OTHER = "tiny-000000000002"


def rows(users: dict[str, float]) -> pa.Table:
    long = np.array([[value, 0.0] for value in users.values()], dtype=np.float32).reshape(-1, 2)
    return pa.table({"user_id": pa.array(users, pa.string()), "long": vectors.vector_column(long)})


def content(settings, version, **options):
    found = vectors.read(settings, ENCODER, VectorTable.USERS, version, **options)
    return dict(zip(found["user_id"].to_pylist(), vectors.vector_array(found["long"])[:, 0].tolist(), strict=True))


def write(settings, users, **options):
    return vectors.write(settings, ENCODER, VectorTable.USERS, rows(users), **options)


def test_a_version_stays_as_it_was_when_another_is_written_over_it(settings):
    first = write(settings, {"a": 1, "b": 2}, base=None)
    second = write(settings, {"b": 3, "c": 4}, base=first, gone=["a"])
    assert content(settings, first) == {"a": 1, "b": 2}
    assert content(settings, second) == {"b": 3, "c": 4}


def test_a_write_starts_from_the_named_version_whatever_an_unfinished_run_left(settings):
    published = write(settings, {"a": 1}, base=None)
    write(settings, {"a": 99, "z": 99}, base=published)
    assert content(settings, write(settings, {"b": 2}, base=published)) == {"a": 1, "b": 2}


def test_new_content_leaves_older_versions_readable(settings):
    first = write(settings, {"a": 1}, base=None)
    second = write(settings, {"b": 2}, base=None)
    assert content(settings, first) == {"a": 1}
    assert content(settings, second) == {"b": 2}


def test_nothing_to_write_makes_no_version(settings):
    first = write(settings, {"a": 1}, base=None)
    assert write(settings, {}, base=first) == first


@pytest.mark.parametrize("key", ["it's", 'say "no"', "', 'a", "a\nb", "用户", "🙂", "..", "x' OR '1'='1"])
def test_keys_of_any_text_are_read_and_taken_away_exactly(settings, key):
    first = write(settings, {key: 1, "a": 2}, base=None)
    assert content(settings, first, keys=[key]) == {key: 1}
    assert content(settings, write(settings, {}, base=first, gone=[key])) == {"a": 2}


def test_many_keys_are_read_whole(settings):
    users = {f"u{n:05d}": float(n) for n in range(12_000)}
    version = write(settings, users, base=None)
    for wanted in (sorted(users)[:1200], sorted(users)[:11_000]):
        assert content(settings, version, keys=wanted) == {user: users[user] for user in wanted}


def test_vectors_of_two_encoders_never_meet(settings):
    version = write(settings, {"a": 1}, base=None)
    (vectors.folder(settings, OTHER)).parent.mkdir(parents=True, exist_ok=True)
    vectors.folder(settings, ENCODER).rename(vectors.folder(settings, OTHER))
    with pytest.raises(BadInput, match=f"{ENCODER}.*{OTHER}"):
        vectors.read(settings, OTHER, VectorTable.USERS, version)
    with pytest.raises(BadInput, match=f"{ENCODER}.*{OTHER}"):
        vectors.write(settings, OTHER, VectorTable.USERS, rows({"b": 2}), base=version)
    own = rows({"a": 1}).replace_schema_metadata({"encoder_id": ENCODER})
    with pytest.raises(BadInput, match=f"{ENCODER}.*{OTHER}"):
        vectors.write(settings, OTHER, VectorTable.USERS, own, base=None)


def test_the_key_is_declared_and_never_null(settings):
    write(settings, {"a": 1}, base=None)
    table = vectors._open(vectors.folder(settings, ENCODER), VectorTable.USERS, ENCODER)
    key = table.schema.field("user_id")
    assert not key.nullable
    assert any(b"primary-key" in name for name in key.metadata or {})


def test_a_table_names_its_encoder_and_artefacts(settings):
    version = write(settings, {"a": 1}, base=None, metadata={"item_factors": "item_factors-1"})
    version = write(settings, {"b": 1}, base=version)
    assert vectors.metadata(settings, ENCODER, VectorTable.USERS, version) == {
        "encoder_id": ENCODER,
        "item_factors": "item_factors-1",
    }


def test_text_vectors_come_back_in_the_order_asked_for(settings):
    kept = np.arange(6, dtype=np.float32).reshape(3, 2)
    vectors.keep_texts(settings, ENCODER, ["t1", "t2", "t3"], kept)
    vectors.keep_texts(settings, ENCODER, ["t3", "t4"], kept[:2] + 10)  # two runs embedded t3
    assert vectors.known_texts(settings, ENCODER) == {"t1", "t2", "t3", "t4"}
    found = vectors.text_vectors(settings, ENCODER, ["t4", "t1", "t3", "t4"], 2)
    assert found.tolist() == [[12, 13], [0, 1], [4, 5], [12, 13]], "what was kept of t3 may be in a publication"
    with pytest.raises(BadInput, match="t9"):
        vectors.text_vectors(settings, ENCODER, ["t1", "t9"], 2)


def test_nearest_orders_by_cosine(settings):
    unit = np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
    table = pa.table({"item_id": pa.array(["a", "b", "c"]), "text": vectors.vector_column(unit)})
    version = vectors.write(settings, ENCODER, VectorTable.ITEMS, table, base=None)
    found = vectors.nearest(settings, ENCODER, VectorTable.ITEMS, version, "text", [1.0, 0.0], 2)
    assert [key for key, _ in found] == ["a", "b"]
    assert found[1][1] == pytest.approx(0.6, abs=1e-6)
