#!/usr/bin/env bash
# Ray 2.60.0: what an actor's constructor raises reaches the caller without its type.
#
# Behaviour: an exception in a method of an actor comes back as a RayTaskError that is also of the exception's own type,
# with the exception in `cause`: `except MissingFile` works across processes. The same exception in `__init__` comes back
# as an ActorDiedError that is of no such type, and has neither `cause` nor `__cause__`: its text alone says what it was.
# In nearfar: a worker opens model and data with its first block, in a method, so that what it refuses stays one sentence.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q ray==2.60.0
env/bin/python - <<'PYTHON'
import logging

import ray


class MissingFile(ValueError):
    pass


@ray.remote
class Reader:
    def __init__(self, path):
        self.path = path
        if path == "constructor":
            raise MissingFile("no such file")

    def read(self):
        raise MissingFile("no such file")


ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
print("ray", ray.__version__)
errors = {}
for path in ("method", "constructor"):
    try:
        ray.get(Reader.remote(path).read.remote())
    except Exception as error:
        errors[path] = error
for path, error in errors.items():
    kinds = isinstance(error, MissingFile), getattr(error, "cause", None), error.__cause__
    print(f"raised in the {path}: {type(error).__name__}; a MissingFile: {kinds[0]}; cause: {kinds[1]!r}, {kinds[2]!r}")
assert isinstance(errors["method"], MissingFile)
assert isinstance(errors["method"].cause, MissingFile)
assert type(errors["constructor"]) is ray.exceptions.ActorDiedError
assert not isinstance(errors["constructor"], MissingFile)
assert getattr(errors["constructor"], "cause", None) is None
assert errors["constructor"].__cause__ is None
assert "MissingFile: no such file" in str(errors["constructor"])
ray.shutdown()
PYTHON
echo "as described"
