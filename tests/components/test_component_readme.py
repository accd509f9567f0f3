"""READMEs are what the signatures say."""

import pytest

from components import readme


@pytest.mark.parametrize("name", readme.names())
def test_committed_readme_is_not_stale(name):
    assert (readme.FOLDER / name / "README.md").read_text() == readme.readme(name)


def test_readme_lists_inputs_defaults_and_outputs():
    text = readme.readme("prune")
    assert "| `model` | String | required | Entry to cut. |" in text
    assert "| `label` | String | `''` |" in text
    assert "| `pointer` | system.Model | JSON that names the stored model. |" in text
    assert "| `Output` | String | Name of the entry in the store. |" in text
    assert "| `data_digest` | String | SHA-256" in readme.readme("resolve")


def test_check_names_the_stale_ones(tmp_path, monkeypatch, capsys):
    real = readme.readme
    monkeypatch.setattr(readme, "readme", lambda name: real(name) + ("more" if name == "gate" else ""))
    assert readme.main(["--check"]) == 1
    assert "READMEs of gate are not" in capsys.readouterr().err
