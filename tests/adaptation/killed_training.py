"""What the test of a kill runs in a process of its own: an adaptation that trains slowly and says how far it is."""

import sys
import time

from nearfar.adaptation import adapt, maps, trained_trials, training_plan, trials
from nearfar.adaptation.training_plan import TrainSetting
from nearfar.methods.image_text.clip import CLIP
from nearfar.training.state.run_state import RunState


def go(data, model, out):
    """Adapt by adapters, eight steps of each training; a step takes half a second."""
    trials.GAMMAS, maps.PENALTIES = (1.0,), (0.1, 1.0)
    after_step, save = CLIP.after_step, RunState.save

    def slowly(self, step):
        print("step", step, flush=True)
        time.sleep(0.5)
        after_step(self, step)

    def saved(self, checkpoints, **options):
        save(self, checkpoints, **options)
        print("saved", self.step, flush=True)

    CLIP.after_step, RunState.save = slowly, saved
    training_plan.settings_for = lambda kind, pairs: [TrainSetting("lora", 1e-3, 16, 4.0)]
    trained_trials.score = lambda embedded: 2.0
    adapt(data, model, out, share=0.3, train="lora", keep_worse=True, index=False)


if __name__ == "__main__":
    go(*sys.argv[1:4])
