"""Runs beside each other: what is the same is left out, and what cannot be compared is said."""

from __future__ import annotations

import io
import json

import pytest
import run_examples as examples
from rich.console import Console

from cifar_hapi import Run, RunError
from cifar_hapi.cli import run_command
from cifar_hapi.comparison import compare, result_of, training_speed
from cifar_hapi.comparison_table import show
from cifar_hapi.loading import build_declared_network
from cifar_hapi.recorded_evaluation import recorded_evaluation
from cifar_hapi.report.run_facts import summary_facts


@pytest.fixture(scope="module")
def folder(small_cifar, tmp_path_factory):
    """Five runs: a, b and c differ in their recipes, d was not evaluated, e was made of generated images."""
    place = tmp_path_factory.mktemp("runs")
    examples.written_run(place / "a", small_cifar)
    examples.written_run(place / "b", small_cifar, epochs=5, optimizer__lr=0.1, bn_stats__every_epochs=2)
    examples.written_run(place / "c", small_cifar, description="another", manifest={"machine": {"cpu": "other"}})
    machine = Run(place / "a").manifest["machine"] | {"threads": 1}  # which several processes share out
    failed = {"status": "failed", "seconds": None, "processes": 2, "machine": machine}
    examples.written_run(place / "d", small_cifar, evaluated=False, manifest=failed)
    examples.called_generated(examples.written_run(place / "e", small_cifar))
    return place


def test_results_are_those_of_the_files(folder):
    run = Run(folder / "a")
    found = result_of(run)
    assert (found.test, found.images, found.views) == (run.evaluation["top1"], 120, "plain")
    assert found.weights == "latest"
    assert (found.best_validation, found.last_validation) == (pytest.approx(0.4), pytest.approx(0.35))
    assert (found.seconds, found.images_per_second) == (12.3, pytest.approx(100))
    assert (found.epochs, found.parameters, found.peak_memory) == (3, 1234, 987_654_321)


def test_speeds_are_weighed_by_their_seconds(small_cifar, tmp_path):
    run = examples.written_run(tmp_path / "run", small_cifar)
    records = [{"seconds": 1, "images_per_second": 100}, {"seconds": 3, "images_per_second": 20}, {"seconds": "x"}]
    (run.path / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert result_of(run).images_per_second == pytest.approx((100 + 60) / 4)


def test_a_speed_that_was_not_measured_is_none():
    one_step = {"seconds": 3.0, "images_per_second": 0.0}  # the first of a process, which is not timed
    assert training_speed([one_step]) is None
    assert training_speed([one_step, {"seconds": 1.0, "images_per_second": 2000.0}]) == 2000


def test_a_run_that_has_gone_on_since_its_evaluation_says_so(small_cifar, tmp_path):
    run = examples.written_run(tmp_path / "gone-on", small_cifar, epochs=4)
    assert compare([run]).notes == ()
    run.save_evaluation(run.evaluation | {"step": 15})
    assert compare([run]).notes == ("gone-on has been trained on since step 15, of which its test results are.",)
    by = dict(summary_facts(run, recorded_evaluation(run)))[""]
    assert "by the weights of step 15, since when it has been trained on;" in by
    run.save_evaluation(run.evaluation | {"weights": "best"})
    assert compare([run]).notes == ()


def test_seconds_of_a_run_that_has_not_ended_are_called_so(small_cifar, tmp_path):
    run = examples.written_run(tmp_path / "run", small_cifar)
    assert dict(summary_facts(run, None))["time"].startswith("12 s in all;")
    run.update(status="interrupted")
    assert dict(summary_facts(run, None))["time"].startswith("12 s so far;")


def test_of_runs_that_have_not_recorded_their_parameters_the_network_is_built(small_cifar, tmp_path):
    manifest = {"parameters": None}
    run = examples.written_run(tmp_path / "run", small_cifar, manifest=manifest, network__width=4, evaluated=False)
    network = build_declared_network(run.recipe.network, 10)
    trained = sum(each.size for each in network.parameters() if not each.stop_gradient)
    assert result_of(run).parameters == trained > 1000


def test_only_keys_that_differ_are_told_with_a_value_for_each_run(folder):
    found = compare([folder / "a", folder / "b", folder / "c"]).differing
    assert found == {
        "epochs": (3, 5, 3),
        "optimizer.lr": (0.24, 0.1, 0.24),
        "bn_stats.every_epochs": (None, 2, None),
        "bn_stats.channels": (None, "summary", None),
        "bn_stats.probe": (None, 0, None),
        "bn_stats.gradients": (None, False, None),
    }


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("ab", []),
        ("ac", ["different machines"]),
        ("ad", ["by different numbers of processes (a: 1, d: 2)"]),
        ("ae", ["not tested on the same images", "generated images, so no result on them is a CIFAR result"]),
        ("e", ["generated images"]),
    ],
)
def test_what_must_be_known_is_said(folder, names, told):
    notes = compare([folder / name for name in names]).notes
    assert len(notes) == len(told) and all(part in note for part, note in zip(told, notes, strict=True))


def shown(found, width):
    text = io.StringIO()
    show(Console(file=text, width=width), found)
    return text.getvalue().splitlines()


@pytest.mark.parametrize("names", ["a", "ab", "abcde", "aaaaaaaaaaaa"])
def test_the_table_is_never_wider_than_the_terminal_and_complete(folder, names):
    found = compare([folder / name for name in names])
    lines = shown(found, 60)[len(names) :]
    assert max(map(len, lines)) <= 60
    heads = [line.split()[1:] for line in lines if line.startswith("results")]
    assert [int(number) for head in heads for number in head] == list(range(1, len(names) + 1))
    tests = [text for line in lines if line.startswith("test top-1") for text in line.split()[2:]]
    assert tests == ["-" if each.test is None else f"{each.test:.2%}" for each in found.results]
    assert any(line.startswith("optimizer.lr") for line in lines) == ("b" in names)
    assert ("recipes: all keys are the same" in lines) == (names == "aaaaaaaaaaaa")
    assert ("one run: name others to compare it with" in lines) == (names == "a")


def test_long_values_are_folded_not_cut(folder, small_cifar, tmp_path):
    groups = [{"parameters": f"a-long-name-{number}", "lr": 0.5, "weight_decay": None} for number in range(4)]
    other = examples.written_run(tmp_path / "other", small_cifar, optimizer__groups=groups, evaluated=False)
    lines = shown(compare([folder / "a", other]), 60)
    assert "a-long-name-3" in "".join("".join(line[16:].split()) for line in lines)


def test_the_command_prints_a_table_or_json(folder, capsys, monkeypatch):
    monkeypatch.setattr("cifar_hapi.cli.prepare_process", lambda: None)
    runs = [str(folder / "a"), str(folder / "d")]
    assert run_command(["compare", *runs]) == 0
    assert "failed" in capsys.readouterr().out
    assert run_command(["compare", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(compare(runs).to_dict())) and found["results"][1]["test"] is None
    assert run_command(["compare"]) == 2 and run_command(["compare", str(folder / "nowhere")]) == 4


def test_a_damaged_evaluation_is_an_error(small_cifar, tmp_path):
    run = examples.written_run(tmp_path / "run", small_cifar)
    (run.path / "evaluation.json").write_text("{}")
    with pytest.raises(RunError, match=r"evaluation\.json"):
        compare([run])
