"""What is written to MLflow, and how: parent and child runs, fixed names, lineage, registry.

Nothing here imports `mlflow` (three seconds) before a function is called that talks to it.
"""

from deploy.tracking.connection import default_uri, ui_command
from deploy.tracking.names import metrics_of, params_of
from deploy.tracking.parents import close_parent, open_parent
from deploy.tracking.troubles import Unreachable

__all__ = [
    "Unreachable",
    "close_parent",
    "default_uri",
    "metrics_of",
    "open_parent",
    "params_of",
    "ui_command",
]
