"""hydra/launcher=processes: the jobs of a sweep on this machine, each in a process of its own, so many at a time."""

from collections.abc import Sequence

from quantlab.cli.launchers.job_file import carry_out, log_file, write_job
from quantlab.cli.launchers.own_launcher import Numbered, OwnLauncher
from quantlab.cli.launchers.pool import Call, places_of, run_all, usable_cores


class Processes(OwnLauncher):
    def run(self, left: Sequence[Numbered]) -> None:
        options, cores = self.options, usable_cores()
        workers = min(options.workers or len(options.gpus or ()) or cores, len(left))
        threads = options.threads or max(1, cores // workers)
        calls = [
            Call(carry_out, (str(write_job(job, number, self.of, self.request.source)),), log_file(job))
            for number, job in left
        ]
        places = places_of(workers, threads, options.gpus or ())
        run_all(calls, places, lambda index, code: self.ended(left[index], code), self.bar.redraw)
