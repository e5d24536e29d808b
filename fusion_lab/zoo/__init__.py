"""Model families, strangers to each other. A new one is a file here and a line below."""

from fusion_lab.zoo.hcat import Hcat
from fusion_lab.zoo.model import MapSpec, Model
from fusion_lab.zoo.multitrack import Multitrack
from fusion_lab.zoo.sensor_fusion import SensorFusion
from fusion_lab.zoo.task_mil import TaskMil
from fusion_lab.zoo.token_fusion import TokenFusion

FAMILIES: dict[str, type[Model]] = {
    "hcat": Hcat,
    "multitrack": Multitrack,
    "sensor_fusion": SensorFusion,
    "task_mil": TaskMil,
    "token_fusion": TokenFusion,
}

__all__ = ["FAMILIES", "MapSpec", "Model"]
