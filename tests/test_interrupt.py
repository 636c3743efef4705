"""Signals: a program saves and ends, its workers leave them to it, and what handled them before does so again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from takes import QUICK, write_pair, write_takes

from reknob.estimation.statistics_run import StatisticsTask
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json
from reknob.runtime.interrupt import SIGNALS, Interrupt, blocked_signals, ignore_signals, stopping_at_once
from reknob.runtime.workers import map_processes
from scripts import train_on_statistics, train_proxy

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[signal.Signals, Any]]:
    """Whatever a test does, the handlers after it are those before it."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_loop_is_asked_to_stop(number: signal.Signals) -> None:
    with Interrupt() as interrupt:
        assert not interrupt()
        send(number)
        assert interrupt() and interrupt.asked and interrupt.signal == number


def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_does_not() -> None:
    with Interrupt() as interrupt:
        send(signal.SIGUSR1)
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert interrupt.signal == signal.SIGUSR1


def test_it_may_be_entered_twice_and_left_without_being_entered() -> None:
    interrupt = Interrupt()
    interrupt.__exit__()
    with interrupt:
        mine = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a library does
        with interrupt:
            send(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        signal.signal(signal.SIGTERM, mine)
    assert interrupt.asked


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt, stopping_at_once():
            send(signal.SIGHUP)
        assert not interrupt.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_changes_no_handlers() -> None:
    failed = []

    def work() -> None:
        try:
            with Interrupt(), stopping_at_once():
                pass
        except ValueError as error:
            failed.append(error)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


def test_processes_started_meanwhile_do_not_see_ctrl_c() -> None:
    show = "import signal; print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    with blocked_signals():
        blocked = subprocess.run([sys.executable, "-S", "-c", show], capture_output=True, text=True).stdout.split()
    assert blocked == [str(int(s)) for s in sorted(set(SIGNALS) - {signal.SIGTERM})]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_a_worker_leaves_signals_to_the_program(handlers: dict[signal.Signals, Any]) -> None:
    try:
        ignore_signals(but=(signal.SIGTERM,))
        for number in set(SIGNALS) - {signal.SIGTERM}:
            send(number)
        assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_worker_that_is_killed_is_told_in_a_line() -> None:
    with pytest.raises(UsageError, match="a worker process was killed, or ran out of memory"):
        list(map_processes(os._exit, [1, 2], 2))


def test_a_stopped_training_on_statistics_writes_what_it_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validate = StatisticsTask.validate

    def stopped(task: StatisticsTask, epoch: int) -> torch.Tensor:
        send(signal.SIGTERM)
        return validate(task, epoch)

    monkeypatch.setattr(StatisticsTask, "validate", stopped)
    tiny = "--seconds=2 --pieces=1 --steps=9 --batch_size=4 --valid_items=2 --workers=0 --windows=1".split()
    assert train_on_statistics.main([*tiny, f"--log_dir={tmp_path}", f"--out={tmp_path / 'a.pt'}"]) == 130
    assert (tmp_path / "a.pt").exists() and "stopped before its end" in capsys.readouterr().out


def test_a_stopped_training_of_a_proxy_writes_what_it_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = torch.nn.utils.clip_grad_norm_

    def stopped(*args: object) -> torch.Tensor:
        send(signal.SIGUSR1)
        return backward(*args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", stopped)
    tiny = "--steps=9 --batch_size=1 --seconds=0.2 --pieces=1 --valid_pieces=1".split()
    assert train_proxy.main([*tiny, f"--out={tmp_path / 'a.pt'}"]) == 130
    assert "Best at step 1 of" in (tmp_path / "a.md").read_text()


def ended_by(number: int, argv: list[str], begun: Path, pattern: str) -> tuple[int, str]:
    """Status and stderr of a program whose process group gets a signal once a file is there."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *argv], cwd=ROOT, start_new_session=True, **pipes) as program:
        try:
            deadline = time.monotonic() + 120
            while not list(begun.glob(pattern)) and program.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            os.killpg(program.pid, number)
            _, said = program.communicate(timeout=120)
        finally:
            program.kill()
    return program.returncode, said


def test_a_fit_whose_group_is_told_to_end_saves(tmp_path: Path) -> None:
    argv = ["main.py", *write_pair(tmp_path), *QUICK, "epochs=100000"]
    status, said = ended_by(signal.SIGHUP, argv, tmp_path, "logs/*/run_0/events*")
    assert status == 130 and "Traceback" not in said, said
    assert read_json(tmp_path / "logs" / "song" / "run_0" / "meta.json")["terminated_by"] == "interrupted"


def test_a_training_whose_group_is_told_to_end_saves_workers_included(tmp_path: Path) -> None:
    write_takes(tmp_path / "music")
    tiny = "--encoder=percentiles --loss=params --seconds=1 --batch_size=2 --valid_items=2 --workers=1".split()
    argv = ["train_analysis_net.py", *tiny, "--data=folder", f"--data_dir={tmp_path / 'music'}"]
    argv += ["--epochs=10000", "--epoch_items=4", f"--log_dir={tmp_path}"]
    status, said = ended_by(signal.SIGTERM, argv, tmp_path, "*/estimator.pt")
    assert status == 130 and "Traceback" not in said, said
    assert list(tmp_path.glob("*/last.ckpt"))
