"""What a run leaves in MLflow. The only place, with the layers above, that imports it."""

import os

# MLflow reads both when it is imported: no usage reports leave the machine, and nothing is printed at the end of a run.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
