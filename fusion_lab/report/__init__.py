"""Figures: from results to PNG bytes and to self-contained HTML pages. Nothing here knows of MLflow or Optuna."""
