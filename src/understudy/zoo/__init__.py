"""Small reference models."""

from understudy.zoo.cnn import CNN

__all__ = ["CNN"]
