"""Finished tiles are remembered, half-written lines are not, and a run goes on only as it was begun."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from unetcli.errors import ConfigError, InputError, Unfinished
from unetcli.image.ledger import Ledger, check_fingerprint, forget, ledger_path

PLAN = {"stage": "weights", "settings": {"w0": 10.0, "sigma": 5.0, "ndim": None}, "inputs": {"data": "ab12"}}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.zarr"


def test_what_was_recorded_is_known_after_reopening(out):
    first = Ledger(out, PLAN)
    assert "a/0" not in first
    first.record("a/0")
    assert "a/0" in first
    second = Ledger(out, PLAN)
    second.record("a/1")
    third = Ledger(out, PLAN)
    assert [name in third for name in ("a/0", "a/1", "a/2", "a")] == [True, True, False, False]


@pytest.mark.parametrize("torn", ["a/1", "a/", "a/10\na/1"], ids=["whole name", "half a name", "after a whole line"])
def test_a_line_without_its_end_does_not_count(out, torn):
    Ledger(out, PLAN).record("a/0")
    (file,) = ledger_path(out).glob("*.done")
    with file.open("a") as stream:
        stream.write(torn)
    ledger = Ledger(out, PLAN)
    assert "a/0" in ledger
    assert "a/1" not in ledger
    assert ("a/10" in ledger) == ("\n" in torn)


def test_a_run_after_a_torn_line_records_whole_names(out):
    Ledger(out, PLAN).record("a/0")
    (file,) = ledger_path(out).glob("*.done")
    with file.open("a") as stream:
        stream.write("a/")
    Ledger(out, PLAN).record("a/7")
    ledger = Ledger(out, PLAN)
    assert "a/0" in ledger
    assert "a/7" in ledger
    assert "a/a/7" not in ledger


def test_processes_and_threads_do_not_lose_each_others_lines(out):
    ledgers = [Ledger(out, PLAN) for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: ledgers[i % 3].record(f"a/{i}"), range(60)))
    again = Ledger(out, PLAN)
    assert all(f"a/{i}" in again for i in range(60))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({**PLAN, "stage": "prep"}, 'stage was "weights", is "prep"'),
        ({**PLAN, "settings": {**PLAN["settings"], "sigma": 6.0}}, "settings sigma was 5.0, is 6.0"),
        ({**PLAN, "settings": {**PLAN["settings"], "ndim": 3}}, "settings ndim was not set, is 3"),
        ({**PLAN, "settings": {**PLAN["settings"], "extra": 1}}, "settings extra was not set, is 1"),
        ({**PLAN, "inputs": {}}, 'inputs data was "ab12", is not set'),
    ],
    ids=["stage", "value", "was none", "new", "gone"],
)
def test_another_fingerprint_is_refused_and_what_changed_is_named(out, changed, said):
    Ledger(out, PLAN)
    with pytest.raises(ConfigError) as caught:
        Ledger(out, changed)
    assert str(out) in str(caught.value)
    assert said in str(caught.value)
    assert "was" not in str(caught.value).replace(said, "").replace("was made with", "")
    assert "--overwrite" in caught.value.fix


def test_what_json_can_not_tell_apart_is_the_same(tmp_path):
    check_fingerprint(tmp_path, json.loads(json.dumps({"shape": (1, 2), "classes": {0: "a"}})), {
        "classes": {0: "a"}, "shape": [1, 2], "new": None,
    })  # fmt: skip


def test_long_values_are_cut_short(tmp_path):
    with pytest.raises(ConfigError) as caught:
        check_fingerprint(tmp_path, {"a": "x" * 500}, {"a": "y" * 500})
    assert len(str(caught.value)) < 300


def test_removing_leaves_nothing(out):
    ledger = Ledger(out, PLAN)
    ledger.record("a/0")
    ledger.scratch("faces").write_text("intermediate")
    forget(out)
    assert list(out.parent.iterdir()) == []
    Ledger(out, {"stage": "another"})


@pytest.mark.parametrize("file", ["plan.json", "computed.settled.json", "a.done"])
@pytest.mark.parametrize("content", [b"", b'{"sta', b"[]", b"\xff"], ids=["empty", "cut", "no table", "no text"])
def test_a_damaged_file_is_named_with_a_remedy(out, file, content):
    Ledger(out, PLAN).settle("computed", {"step": [16]})
    (ledger_path(out) / file).write_bytes(content)
    if file == "a.done" and content != b"\xff":
        assert "a/0" not in Ledger(out, PLAN)
        return
    with pytest.raises(InputError, match=f"{file}: is damaged") as caught:
        Ledger(out, PLAN).settled()
    assert "remove the folder" in caught.value.fix


def test_a_decision_that_lacks_an_entry_is_damaged(out):
    ledger = Ledger(out, PLAN)
    ledger.settle("computed", {"step": [16]})
    with pytest.raises(InputError, match=r"is damaged.*holds step; expected step, engine"):
        ledger.settle("computed", {"step": [16], "engine": "torch"})


@pytest.mark.parametrize("use", [
    lambda ledger: ledger.record("a/1"), lambda ledger: ledger.settled(), lambda ledger: ledger.settle("computed", {}),
    lambda ledger: ledger.noted_parts(),
], ids=["record", "settled", "settle", "parts"])  # fmt: skip
def test_nothing_is_believed_of_a_ledger_without_its_plan(out, use):
    """Another process that completes the store removes the plan first, and is slow with the rest."""
    ledger = Ledger(out, PLAN)
    ledger.record("a/0")
    (ledger_path(out) / "plan.json").unlink()
    with pytest.raises(Unfinished, match="was removed"):
        use(ledger)
    forget(out)
    assert not ledger_path(out).exists()


def test_what_fails_because_the_ledger_is_gone_is_not_blamed_on_the_files(out):
    ledger = Ledger(out, PLAN)

    def read_a_shard():
        with ledger.present():
            raise InputError("a shard is missing")

    with pytest.raises(InputError):
        read_a_shard()
    forget(out)
    with pytest.raises(Unfinished):
        read_a_shard()
