"""Builders: networks by name, for any input shape and number of classes. Importing registers all of them."""

from compress.models import borrowed, mobilenet_v2_small, resnet_cifar, vgg_small

__all__ = ["borrowed", "mobilenet_v2_small", "resnet_cifar", "vgg_small"]
