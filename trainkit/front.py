"""The front: what the person who typed the command talks to.

    config.yaml -> follower, launcher.start -> [ is it running? draw ]* -> drain the tracker -> summary.json, table

It never trains and never imports torch: it starts the ranks and reads the run folder, which is the truth. So neither
a slow terminal nor a tracker that is down can hold up a step.
"""

from __future__ import annotations
