"""Operations on point clouds: public functions on tensors, one file an operation.

Every operation has a slow twin in ``reference.py`` or, for boxes and voxels, ``reference_boxes.py`` and
``reference_voxels.py``; ``set_backend`` chooses between the implementations.
``cpu/`` holds the compiled loops of the CPU path, ``csrc/`` the CUDA sources, ``cuda/`` what compiles and launches
them.
"""

from lib.errors import InputError
from lib.ops.backend import BACKENDS, describe_kernels, get_backend, runs_inference, set_backend, use_backend
from lib.ops.boxes import bev_iou, box_iou, points_in_boxes, rotated_nms
from lib.ops.checks import check_finite, is_recording
from lib.ops.flow_embedding import flow_embedding
from lib.ops.gather import gather, neighbour_offsets
from lib.ops.interpolate import append_weighted_sum, inverse_distance_weights, weighted_sum
from lib.ops.join import join
from lib.ops.knn import knn, knn_each
from lib.ops.linear import Layer, add_linear, linear, mlp
from lib.ops.pointconv import pointconv_aggregate, pointconv_layer, pointconv_linear, pointconv_net
from lib.ops.reference import NEGATIVE_SLOPE, WEIGHTS
from lib.ops.sampling import furthest_point_sample
from lib.ops.voxels import Cells, VoxelGrid, scatter_to_map, voxelise
from lib.ops.weight_net import weight_net

__all__ = [
    "BACKENDS",
    "Cells",
    "InputError",
    "Layer",
    "NEGATIVE_SLOPE",
    "VoxelGrid",
    "WEIGHTS",
    "add_linear",
    "append_weighted_sum",
    "bev_iou",
    "box_iou",
    "check_finite",
    "describe_kernels",
    "flow_embedding",
    "furthest_point_sample",
    "gather",
    "get_backend",
    "inverse_distance_weights",
    "is_recording",
    "join",
    "knn",
    "knn_each",
    "linear",
    "mlp",
    "neighbour_offsets",
    "pointconv_aggregate",
    "pointconv_layer",
    "pointconv_linear",
    "pointconv_net",
    "points_in_boxes",
    "rotated_nms",
    "runs_inference",
    "scatter_to_map",
    "set_backend",
    "use_backend",
    "voxelise",
    "weight_net",
    "weighted_sum",
]
