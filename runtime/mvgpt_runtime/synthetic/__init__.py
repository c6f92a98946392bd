"""Short drawn clips, with questions whose answers are known: what `tiny` is trained on and bundles are scored by.

In the order of the data: scenes.py (what happens), drawing.py (frames), questions.py (questions and answers).
"""

from .drawing import draw
from .questions import TYPES, Question, ask_about
from .scenes import Scene, scene

__all__ = ["TYPES", "Question", "Scene", "ask_about", "draw", "scene"]
