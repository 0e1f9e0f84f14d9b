"""What a process of its own runs in `test_full_disk.py`."""

import resource

from toy import Pairs, loader

from nearfar import train
from nearfar.errors import UserError

OPTIONS = {"steps": 6, "save_every": 2, "log_every": 1, "progress": False, "report": False}


def with_small_files(out, at, largest):
    """What a run says whose files may hold `largest` bytes from step `at` on, as under `ulimit -f`."""

    class Limited(Pairs):
        def after_step(self, step):
            super().after_step(step)
            if step == at:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    try:
        train(Limited(), loader(), out=out, **OPTIONS)
    except UserError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
