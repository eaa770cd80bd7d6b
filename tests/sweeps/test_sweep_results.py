"""The table and the figure of a sweep."""

from igpt.sweeps import sweep_results


def job(name, value, *changed):
    return {"job": name, "status": "finished", "changed": list(changed), "val/nats_per_token": value}


def test_a_job_is_shown_only_in_the_panels_of_the_keys_that_it_varies(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(sweep_results, "_numbers", lambda texts: shown.append(list(texts)) or [])
    rows = [job("0", 1.0, "optim.lr=0.1"), job("1", 2.0, "optim.lr=0.2", "seed=3")]
    sweep_results.plot(rows, rows, "val/nats_per_token", tmp_path / "sweep.png")
    sweep_results.plot(rows[:1], [job("0", 1.0)], "val/nats_per_token", tmp_path / "one.png")
    assert shown == [["0.1", "0.2"], ["3"], ["0"]]
