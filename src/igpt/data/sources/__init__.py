"""Sources of images: each has three splits, and reads their images by index."""

from igpt.data.sources.cifar import CIFAR10Source, CIFAR100Source
from igpt.data.sources.emoji import EmojiSource
from igpt.data.sources.hub import HubSource
from igpt.data.sources.image_folder import ImageFolderSource
from igpt.data.sources.imagenet_small import ImageNet32Source, ImageNet64Source
from igpt.data.sources.mnist import FashionMNISTSource, MNISTSource
from igpt.data.sources.numpy_arrays import ArraysSource
from igpt.data.sources.photos import PhotoSource, WholePhotos
from igpt.data.sources.resize import area_average
from igpt.data.sources.source import SPLITS, Chunk, ImageSource
from igpt.data.sources.splits import at_resolution
from igpt.data.sources.stl10 import STL10Source

__all__ = [
    "SPLITS", "ArraysSource", "CIFAR10Source", "CIFAR100Source", "Chunk", "EmojiSource", "FashionMNISTSource",
    "HubSource", "ImageFolderSource", "ImageNet32Source", "ImageNet64Source", "ImageSource", "MNISTSource",
    "PhotoSource", "STL10Source", "WholePhotos", "area_average", "at_resolution",
]  # fmt: skip
