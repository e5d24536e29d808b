"""What a run leaves in MLflow. The only place, with the layers above, that imports it."""

import os

# MLflow reads them when it is imported: no usage reports leave the machine, and it prints nothing of its own.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
