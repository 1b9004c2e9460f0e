"""Small reference models, and image classifiers of transformers made from a configuration."""

from understudy.zoo.cnn import CNN
from understudy.zoo.configured import from_config
from understudy.zoo.mlp import MLP
from understudy.zoo.resnet import ResNet

__all__ = ["CNN", "MLP", "ResNet", "from_config"]
