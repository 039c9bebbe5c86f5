"""What a run shows: tables, events, sheets spread over the run, rows with the time that is left."""

import math
import sys
import time

import numpy as np
import pytest

from tests.conftest import TINY, Stopped, read_png, stop_after
from unetcli.config import TrainConfig
from unetcli.image.streaming import silent
from unetcli.report.predictions import Prediction
from unetcli.stages import train
from unetcli.training import record as module
from unetcli.training.record import Record, best_row, better, panels_of, read_rows, write_rows


def row(step, **scores):
    found = {"step": step, "learning_rate": 1e-3, "loss": 1 / step}
    return {**found, "validation_loss": 2 / step, "validation_pixel_error": 0.1, "validation_iou": 0.5, **scores}


def times(step, *, seconds=10.0):
    return {"step": step, "seconds": seconds, "data_wait": 0.25, "validation_seconds": 4.0}


def picture():
    return Prediction("img", "worst", (0, 0), np.zeros((1, 8, 8)), np.eye(8, dtype=int), np.eye(8, dtype=int), 1.0)


class Rows:
    """A progress that remembers the rows it is shown."""

    def __init__(self):
        self.rows = []

    def __call__(self, done, total):
        pass

    def show_row(self, row, total, *, is_best, seconds_left):
        self.rows.append((row, total, is_best, seconds_left))


def keep(record, steps, every, scores=None):
    """Tell a record of all validations of a run."""
    rows, timing = [], []
    for k, step in enumerate(range(every, steps + 1, every)):
        rows.append(row(step, **({"validation_iou": scores[k]} if scores else {})))
        timing.append(times(step))
        record.add(rows, timing, [1 / s for s in range(step - every + 1, step + 1)], lambda: [picture()])


@pytest.mark.parametrize(
    ("steps", "every", "sheets"),
    [
        (6, 2, [2, 4, 6]), (10, 1, range(1, 11)), (100, 1, range(10, 101, 10)),
        (120, 10, [20, 30, 40, 50, 60, 80, 90, 100, 110, 120]),
    ],
    ids=["3 validations", "10", "100", "12"],
)  # fmt: skip
def test_sheets_are_spread_over_the_run_and_the_last_is_drawn(tmp_path, steps, every, sheets):
    keep(Record(tmp_path, steps, every, ("a", "b"), silent, "validation_iou", has_tensorboard=False), steps, every)
    assert [int(path.stem[5:]) for path in sorted((tmp_path / "validation").iterdir())] == list(sheets)
    assert len(sheets) <= module.MOST_SHEETS


def test_a_row_says_rate_best_and_the_time_left_with_validations(tmp_path):
    progress = Rows()
    keep(
        Record(tmp_path, 60, 20, ("a", "b"), progress, "validation_iou", has_tensorboard=False), 60, 20, [0.4, 0.6, 0.5]
    )
    shown, total, is_best, left = zip(*progress.rows, strict=True)
    assert [r["step"] for r in shown] == [20, 40, 60]
    assert set(total) == {60}
    assert {r["steps_per_second"] for r in shown} == {2.0}
    assert is_best == (True, True, False)
    assert left == (40 / 2 + 2 * 4, 20 / 2 + 4, 0)


def test_the_columns_of_classes_are_not_in_a_row(tmp_path):
    progress = Rows()
    record = Record(tmp_path, 2, 2, ("a", "b", "c"), progress, "validation_iou", has_tensorboard=False)
    record.add([row(2, validation_iou_a=0.1, validation_mean_iou=0.2)], [times(2)], [1.0, 1.0], list)
    ((shown, *_),) = progress.rows
    assert "validation_mean_iou" in shown
    assert "validation_iou_a" not in shown
    assert read_rows(tmp_path / "metrics.csv")[0]["validation_iou_a"] == 0.1
    assert not (tmp_path / "validation").exists()  # there was nothing to show


def test_curves_are_drawn_now_and_then(tmp_path, monkeypatch):
    record = Record(tmp_path, 6, 2, ("a", "b"), silent, "validation_iou", has_tensorboard=False)
    keep(record, 4, 2)
    assert not (tmp_path / "curves.png").exists()
    monkeypatch.setattr(module, "CURVES_INTERVAL_S", -1)
    keep(record, 6, 2)
    assert read_png(tmp_path / "curves.png")[0][0] > 1000


def events_of(folder):
    """Return the events of TensorBoard that are not hidden: by name, value by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), purge_orphaned_data=True)
    found.Reload()
    scalars = {name: {e.step: e.value for e in found.Scalars(name)} for name in found.Tags()["scalars"]}
    return scalars, found.Tags()["images"]


def test_tensorboard_has_each_loss_and_all_scores_once_after_a_resume(instances, tmp_path):
    pytest.importorskip("tensorboard")
    config = TrainConfig(**TINY)
    for after in (1, 2):
        with pytest.raises(Stopped):
            train.run(instances, tmp_path / "run", config, device="cpu", progress=stop_after(after))
        time.sleep(1)  # files of events are ordered by the second in their names
    train.run(instances, tmp_path / "run", config, device="cpu")
    scalars, images = events_of(tmp_path / "run" / "tensorboard")
    assert list(scalars["loss/training"]) == [1, 2, 3, 4, 5, 6]
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    for column, name in (("validation_loss", "loss/validation"), ("validation_iou", "validation/iou")):
        assert scalars[name] == pytest.approx({r["step"]: r[column] for r in rows}, rel=1e-6)
    assert {"learning_rate", "time/data_wait", "validation/pixel_error"} <= set(scalars)
    assert images == ["predictions"]


def test_without_tensorboard_one_line_says_how_to_get_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    caplog.set_level("INFO", logger="unetcli")
    keep(Record(tmp_path, 6, 2, ("a", "b"), silent, "validation_iou"), 6, 2)
    (line,) = caplog.messages
    assert "pip install 'unetcli[tensorboard]'" in line
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize(
    ("column", "expected"),
    [("validation_iou", "higher"), ("validation_pixel_error", "lower"), ("validation_loss", "lower"), ("loss", "lower"),
     ("validation_mean_iou", "higher"), ("validation_warping_error", "lower"), ("validation_v_rand", "higher")],
)  # fmt: skip
def test_which_values_are_better(column, expected):
    assert better(column) == expected
    rows = [{"step": k, column: value} for k, value in enumerate((0.5, 0.2, 0.9, 0.2, 0.9))]
    assert best_row(rows, column)["step"] == {"lower": 1, "higher": 2}[expected]


def test_curves_show_scores_in_panels():
    panels = panels_of([row(2, validation_dice=0.7, validation_v_rand=0.9)])
    assert [panel.title for panel in panels] == ["IoU and Dice", "Pixel error", "V_Rand"]
    panels = panels_of([row(2, validation_dice=0.7, validation_mean_iou=0.3, validation_iou_axon=0.2)])
    assert [panel.title for panel in panels] == ["Foreground", "IoU of each class", "Pixel error"]
    assert list(panels[1].lines) == ["mean", "axon"]
    assert panels_of([{"step": 1, "loss": 1.0}]) == panels_of([]) == []


def test_tables_are_read_as_they_were_written(tmp_path):
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": math.pi, "extra": 1e-9}]
    write_rows(tmp_path / "t.csv", rows)
    assert (tmp_path / "t.csv").read_text().splitlines() == ["step,loss,extra", "1,0.5,", "2,3.1415927,1e-09"]
    assert read_rows(tmp_path / "t.csv")[0] == rows[0]
    assert read_rows(tmp_path / "t.csv")[1] == pytest.approx(rows[1])
