"""Training goes on where a kill left it."""

from __future__ import annotations

from pathlib import Path

from edgedistill.training import _newest


def test_a_checkpoint_cut_off_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    """A build that ends in a JSON error for ever, since the kill came while the newest checkpoint was written."""
    assert _newest(tmp_path) is None
    for step, content in ((9, "{}"), (10, "{}"), (11, '{"global_st'), (12, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    assert _newest(tmp_path) == str(tmp_path / "checkpoint-10")
