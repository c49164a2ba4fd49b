"""Publications: nothing is seen before its switch, the switch is one step, and a rollback holds."""

import json
import os

import pyarrow as pa
import pytest

from include.errors import BadInput, GateFailed
from include.steps.publish import publish
from include.steps.roll_back import choose_publication, roll_back
from include.stores import pages, publications
from include.stores.files import write_json

NO_TEXTS = pa.table({name: pa.array([], pa.string()) for name in ("text_hash", "text", "kind")})


def manifest(settings, as_of="2020-01-02T00:00:00+00:00", candidate="c1", **changes):
    content = {
        "kind": "update",
        "as_of": as_of,
        "lake_snapshot": 5,
        "encoder_id": "tiny-1",
        "artefacts": {},
        "settings_hash": "s",
        "code_version": "v",
        "lists": {"as_of": as_of, "lake_snapshot": 5, "item_vectors": 1},
        "candidate": candidate,
        **changes,
    }
    return publications.add(settings, content)


def test_a_publication_is_named_by_what_it_was_made_of(settings):
    first = manifest(settings)
    assert first["id"].startswith("20200102T000000Z-s5-")
    assert manifest(settings, candidate="c2")["id"] == first["id"] + "-2"
    assert manifest(settings, candidate="c1") == first, "the same candidate is published once"
    assert manifest(settings, encoder_id="tiny-2", candidate="c3")["id"] != first["id"]


def test_nothing_serves_before_the_first(settings):
    assert publications.serving_id(settings) is None
    with pytest.raises(BadInput, match="nothing is published"):
        publications.serving(settings)


def test_what_serves_is_switched_and_every_switch_recorded(settings):
    first, second = manifest(settings), manifest(settings, as_of="2020-01-03T00:00:00+00:00", candidate="c2")
    publications.serve(settings, first["id"], "published", pin=False)
    publications.serve(settings, second["id"], "published", pin=False)
    assert publications.serving(settings)["id"] == second["id"]
    assert [change["to"] for change in publications.changes(settings)] == [first["id"], second["id"]]


def test_a_publication_that_goes_while_all_are_read_is_left_out(settings, monkeypatch):
    first, second = manifest(settings), manifest(settings, as_of="2020-01-03T00:00:00+00:00", candidate="c2")
    read = publications._read

    def pruned(file):
        publications.remove(settings, first["id"])
        return read(file)

    monkeypatch.setattr(publications, "_read", pruned)
    assert publications.manifests(settings) == [second]


def test_rollback_pins_until_unpinned(settings):
    first, second = manifest(settings), manifest(settings, as_of="2020-01-03T00:00:00+00:00", candidate="c2")
    publications.serve(settings, first["id"], "published", pin=False)
    publications.serve(settings, second["id"], "published", pin=False)
    assert choose_publication(settings) == {"from": second["id"], "to": first["id"]}
    assert publications.serving_id(settings) == second["id"], "choosing switches nothing"
    change = roll_back(settings, reason=" bad lists ")
    assert change["to"] == first["id"]
    assert publications.changes(settings)[-1]["why"] == f"rolled back from {second['id']}: bad lists"
    assert publications.serving_id(settings) == first["id"]
    assert publications.pinned(settings)
    assert publications.newest(settings)["id"] == second["id"], "updates still build on the newest"
    publications.unpin(settings)
    assert not publications.pinned(settings)
    assert publications.serving_id(settings) == first["id"]


def test_one_rollback_after_another_goes_further_back(settings):
    made = [manifest(settings, as_of=f"2020-01-0{n}T00:00:00+00:00", candidate=f"c{n}")["id"] for n in (2, 3, 4, 5)]
    for name in made[:3]:
        publications.serve(settings, name, "published", pin=False)
    assert [roll_back(settings)["to"] for _ in range(2)] == [made[1], made[0]]
    with pytest.raises(BadInput, match="nothing to roll back to"):
        roll_back(settings)
    roll_back(settings, made[1])
    publications.unpin(settings)
    publications.serve(settings, made[3], "published", pin=False)
    assert roll_back(settings)["to"] == made[1], "what served before, whether or not it was rolled back to"


def test_where_nothing_is_pinned_there_is_nothing_to_unpin(settings):
    publications.unpin(settings)
    assert publications.changes(settings) == []
    publications.serve(settings, manifest(settings)["id"], "published", pin=False)
    assert publications.served_before(settings) is None
    # A home in which an earlier Tidemark recorded that nothing was unpinned.
    pointer = settings.publications / "serving.json"
    content = json.loads(pointer.read_text())
    nothing = {"at": "2020-01-01T00:00:00+00:00", "from": None, "to": None, "why": "unpinned"}
    pointer.write_text(json.dumps({**content, "changes": [nothing, *content["changes"]]}))
    assert publications.served_before(settings) is None


def test_rollback_needs_somewhere_to_go(settings):
    publications.serve(settings, manifest(settings)["id"], "published", pin=False)
    with pytest.raises(BadInput, match="nothing to roll back to"):
        roll_back(settings)
    with pytest.raises(BadInput, match=r"no publication '\.\./x'"):
        roll_back(settings, "../x")
    assert roll_back(settings, publications.serving_id(settings), "good as it is")["why"] == "held: good as it is"
    assert publications.pinned(settings)


def test_a_reader_sees_the_old_or_the_new_pointer_never_a_part(settings, monkeypatch):
    first, second = manifest(settings), manifest(settings, as_of="2020-01-03T00:00:00+00:00", candidate="c2")
    publications.serve(settings, first["id"], "published", pin=False)

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("include.stores.files.os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        publications.serve(settings, second["id"], "published", pin=False)
    assert publications.serving_id(settings) == first["id"]
    json.loads((settings.publications / "serving.json").read_text())


def test_a_candidate_without_its_gates_is_not_published(settings):
    state = {"expected_gates": ["vectors"], "gates": [], "lake_snapshot": 1}
    candidate = publications.new_candidate(settings, state, {"users": [], "items": []}, relisted=None, texts=NO_TEXTS)
    with pytest.raises(GateFailed, match="vectors"):
        publish(settings, candidate)
    publications.add_gate(settings, candidate, {"name": "vectors", "passed": False})
    with pytest.raises(GateFailed, match="vectors"):
        publish(settings, candidate)
    assert publications.manifests(settings) == []


def test_a_candidate_gets_on_with_each_part_that_it_writes(settings):
    name = publications.new_candidate(settings, {"gates": []}, {}, relisted=None, texts=NO_TEXTS)
    folder = publications.candidate_folder(settings, name)
    part = folder / "parts" / "update_lists" / "000000.arrow"
    write_json(part, {})
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (1000, 1000))
    os.utime(part, (2000, 2000))
    assert [last.timestamp() for _, _, last in publications.candidates(settings)] == [2000]


def test_a_gate_judged_again_replaces_its_earlier_result(settings):
    candidate = publications.new_candidate(
        settings, {"gates": []}, {"users": [], "items": []}, relisted=None, texts=NO_TEXTS
    )
    publications.add_gate(settings, candidate, {"name": "vectors", "passed": False})
    publications.add_gate(settings, candidate, {"name": "vectors", "passed": True})
    assert publications.candidate(settings, candidate)["gates"] == [{"name": "vectors", "passed": True}]


def test_a_page_is_read_by_its_name_among_the_reports_and_nothing_else_is(settings):
    pages.write(settings, "20200102T000000Z-s5", "<p>lists</p>")
    backtest, docs = (
        settings.reports / "backtests" / "b1" / "report.html",
        settings.reports / "data_docs" / "index.html",
    )
    for file in (backtest, docs, settings.home / "secret.html"):
        write_json(file, {})
    assert pages.names(settings) == ["publications/20200102T000000Z-s5.html", "backtests/b1/report.html"]
    assert pages.read(settings, "publications/20200102T000000Z-s5.html") == "<p>lists</p>"
    for name in ("data_docs/index.html", "../secret.html", "publications/../../secret.html", str(docs), ""):
        with pytest.raises(BadInput, match="there is no page"):
            pages.read(settings, name)
