"""Fits of several pairs under one progress bar, and what becomes of each."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from afx import kernels
from data.audio import duration
from data.chunks import cut_chunks
from data.pairs import PairFiles, load_pair
from fitting.batch import Budget, fit_all
from fitting.fit import Fit, Terms
from fitting.settings import FitSettings
from fitting.track import Track
from formats import runs
from report.journal import Journal
from runtime.device import pick_device
from runtime.interrupt import Interrupt


class Session:
    """Fits of several pairs with the same settings.

    Args:
        settings: of main.py, with the whole chain under `chain`.

    Raises UsageError where they do not make a chain, a loss or a device.
    """

    def __init__(self, settings: FitSettings):
        self.settings, self.device = settings, pick_device(settings.device)
        self.chain = settings.build_chain().to(self.device)
        self.loss = settings.build_loss()
        self.journals: dict[Track, Journal] = {}
        self.bar: tqdm | None = None
        self.failed: list[str] = []
        self.fitted = self.done_before = 0

    def fit(self, pairs: Sequence[tuple[Path, PairFiles]], interrupt: Interrupt) -> None:
        """Fits all pairs, under one progress bar; their runs go to the folders before them."""
        limit = self.settings.memory_gb and int(1e9 * self.settings.memory_gb)
        shared = self.settings.loss.mldr_rows != "rolled"
        budget = Budget(self.device, self.settings.batch_size, limit, shared=shared)
        try:
            fit_all(
                self.tracks(pairs, interrupt),
                self.together,
                budget,
                on_step=self.on_step,
                on_pause=self.on_pause,
                on_end=self.on_end,
                stopped=interrupt,
            )
        finally:
            if self.bar is not None:
                self.bar.close()

    def tracks(self, pairs: Sequence[tuple[Path, PairFiles]], interrupt: Interrupt) -> Iterator[Track]:
        """The pairs that are to be fitted, loaded one by one; those of one length lie together."""
        for log_dir, files in sorted(pairs, key=lambda pair: duration(pair[1].wet_path)):
            if interrupt.asked:
                return
            try:
                track = self.open(log_dir, files)
            except ValueError as error:
                self.failed.append(str(error))
                continue
            if track:
                yield track

    def open(self, log_dir: Path, files: PairFiles) -> Track | None:
        """A pair's track and run folder, new or as an interrupted run left it; None where a run has its epochs."""
        settings = self.settings
        newest = runs.newest_run(log_dir, files.name, files.wet_path) if settings.resume else None
        if newest and runs.has_ended(newest, settings.epochs):
            tqdm.write(f"{files.name}: has {settings.epochs} epochs in {newest}; resume=false begins anew")
            self.done_before += 1
            return None
        # fix_drift and fix_channel_polarity of the settings go in here too.
        pair = load_pair(files, settings.sr, settings.lufs, align=settings.align, check=settings.check_pair)
        chunks = cut_chunks(pair, settings.chunk_duration, settings.chunk_overlap, self.loss.least_samples)
        track = Track(self.chain, chunks, epochs=settings.epochs, seed=settings.seed)
        journal = self.journals[track] = Journal.open(log_dir, newest, pair, track, asdict(settings))
        where = f"{self.device}, {journal.folder}"
        tqdm.write(f"{pair.name}: {len(chunks.dry)} chunks of {settings.chunk_duration:g} s, {where}")
        if self.bar is None:
            self.bar = tqdm(total=0, unit="step", dynamic_ncols=True)
        self.bar.total += track.epochs
        self.bar.update(track.step_count)
        return track

    def together(self, tracks: Sequence[Track]) -> Fit:
        """A fit of some tracks."""
        if self.device.type == "cpu" and not kernels.compiled():
            tqdm.write("first run on this machine: compiling the sample loops, about a minute, once")
        settings = self.settings
        return Fit(
            self.chain,
            tracks,
            self.loss,
            lr=settings.optimiser.lr,
            batch_size=settings.batch_size,
            method=settings.optimiser.method,
            device=self.device,
            graphed=settings.graph and self.device.type == "cuda",
        )

    def on_step(self, fit: Fit, track: Track, terms: Terms) -> None:
        self.journals[track].note(fit, terms)
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()}, refresh=False)
        self.bar.update()

    def on_pause(self, tracks: Sequence[Track]) -> None:
        for track in tracks:
            self.journals[track].save()

    def on_end(self, track: Track, why: str | None) -> None:
        journal = self.journals.pop(track)
        try:
            tqdm.write(journal.close(self.chain, self.device, "error" if track.error else why))
        except (OSError, RuntimeError, ValueError) as error:
            self.failed.append(f"{journal.pair.name}: fitted, but {journal.folder} is not whole: {error}")
            return
        self.fitted += not why
        if track.error:
            self.failed.append(f"{journal.pair.name}: {track.error}")
