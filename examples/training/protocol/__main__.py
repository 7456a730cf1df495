"""`python -m examples.training.protocol FOLDER`."""

import sys

from examples.training.protocol.study import STUDY
from examples.training.studies.command import study_command

sys.exit(study_command(STUDY))
