import errno
import json
import multiprocessing
import subprocess
import time
from dataclasses import replace

import pytest
import torch

from compress.core.model import CorruptModel
from compress.core.registry import UnknownName
from compress.core.stage import Ref, StageResult
from compress.store import LocalStore, StoreFull, full_disk_named
from tests.toys import TOY_INPUT, toy_model

REF = Ref("proof-0123456789abcdef")
RECORD = {"stage": "proof", "version": 1, "config": {}, "parents": {}, "task": None}


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def put(store, ref=REF, **kwargs):
    return store.put(ref, RECORD, StageResult(report={"score": 0.5}, **kwargs), 1.25)


def test_what_is_put_can_be_got(store, tmp_path):
    figure = tmp_path / "figure.svg"
    figure.write_text("<svg/>")
    model = toy_model(2)
    put(store, model=model, files={"figures/curve.svg": figure})
    entry = store.get(REF)
    assert entry.report == {"score": 0.5}
    assert entry.files["figures/curve.svg"].read_text() == "<svg/>"
    assert torch.equal(entry.model(TOY_INPUT.example()), model(TOY_INPUT.example()))


def test_the_record_says_what_when_and_on_what(store):
    put(store)
    record = store.record(REF)
    assert record["identity"] == RECORD
    assert record["seconds"] == 1.25
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["machine"]["cores"] >= 1


def test_putting_twice_keeps_the_first(store):
    put(store)
    created = store.record(REF)
    store.put(REF, RECORD, StageResult(report={"score": 0.9}), 9.0)
    assert store.record(REF) == created
    assert list((store.root / "incoming").iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_behind(store, monkeypatch, code):
    def full(*_, **__):
        raise OSError(code, "No space left on device")

    monkeypatch.setattr("compress.store.shutil.copyfile", full)
    with pytest.raises(StoreFull, match="free space under"):
        put(store, files={"a": store.root})
    assert not store.has(REF)
    assert list((store.root / "incoming").iterdir()) == []
    monkeypatch.undo()
    assert put(store).report == {"score": 0.5}


def test_other_write_errors_pass_through(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        put(store, files={"a": tmp_path / "absent"})
    assert not store.has(REF)


def test_a_number_that_is_none_is_refused_before_anything_appears(store):
    with pytest.raises(ValueError, match="JSON"):
        store.put(REF, RECORD, StageResult(report={"loss": float("nan")}), 1.0)
    assert not store.has(REF)


def test_a_changed_file_is_refused(store, tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("truth")
    put(store, files={"a.txt": source})
    (store.folder(REF) / "files" / "a.txt").write_text("other")
    with pytest.raises(CorruptModel, match="changed after it was saved"):
        store.get(REF)


def test_missing_entries_and_bad_names_are_named(store):
    with pytest.raises(KeyError, match="no entry 'proof-0"):
        store.get(REF)
    for name in ("../etc", "", ".hidden", "a/b"):
        with pytest.raises(ValueError, match="no entry's name"):
            store.has(Ref(name))


def test_names_aliases_and_beginnings_resolve(store):
    put(store)
    put(store, ref=Ref("other-0123456789abcdef"))
    store.alias(REF, "best")
    assert store.resolve("best") == store.resolve("proof") == store.resolve(REF) == REF
    with pytest.raises(UnknownName, match="Did you mean 'best'"):
        store.resolve("bset")
    with pytest.raises(ValueError, match="cannot be an alias"):
        store.alias(REF, "../best")
    assert set(store.refs()) == {REF, "other-0123456789abcdef"}


def test_scratch_survives_and_is_cleared(store):
    (store.scratch(REF) / "checkpoint").write_text("x")
    assert (store.scratch(REF) / "checkpoint").read_text() == "x"
    store.clear_scratch(REF)
    assert list(store.scratch(REF).iterdir()) == []


def hold(root, started):
    with LocalStore(root).locked(REF):
        started.set()
        time.sleep(0.5)


def test_a_second_maker_waits(store):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    other = context.Process(target=hold, args=(store.root, started))
    other.start()
    assert started.wait(30)
    start = time.monotonic()
    with store.locked(REF):
        waited = time.monotonic() - start
    other.join()
    assert waited > 0.2


def test_records_are_plain_json(store):
    put(store)
    assert json.loads((store.folder(REF) / "entry.json").read_text())["ref"] == REF


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("what", ["file", "model"])
def test_a_disk_that_is_really_full(small_disk, tmp_path, what):
    source = tmp_path / "large.bin"
    source.write_bytes(b"x" * 2_000_000)
    large = replace(toy_model(), module=torch.nn.Linear(1000, 1000))
    store = LocalStore(small_disk / "store")
    content = {"model": large} if what == "model" else {"files": {"large.bin": source}}
    with pytest.raises(StoreFull, match="free space under"):
        put(store, **content)
    assert not store.has(REF)
    assert list((store.root / "incoming").iterdir()) == []
    source.write_bytes(b"x")
    assert put(store, files={"large.bin": source}).report == {"score": 0.5}


def test_what_a_killed_writer_left_is_swept_away(store):
    left = store.root / "incoming" / f"{REF}-deadbeef"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    put(store)
    assert list((store.root / "incoming").iterdir()) == []


def test_a_full_disk_elsewhere_is_named(tmp_path):
    with pytest.raises(StoreFull, match="free space under /elsewhere and run again"), full_disk_named("x", tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", "/elsewhere/file")
    with pytest.raises(PermissionError), full_disk_named("x", tmp_path):
        raise PermissionError(errno.EACCES, "denied")
