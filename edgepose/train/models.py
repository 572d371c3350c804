"""Keep the public name ``edgepose.train.models.build_model``; the networks are in :mod:`edgepose.models`."""

from ..models import build_model as build_model
