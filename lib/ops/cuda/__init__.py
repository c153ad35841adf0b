"""The point operations on a GPU: kernels of ``lib/ops/csrc``, registered with torch as ``point_ops::*``.

Each function here takes checked arguments from the function of the same name in ``lib.ops``. The registered operations
have fake kernels and gradients, so torch.compile, torch.export and CUDA graphs accept them. Every backward sums in a
fixed order; there is no mode in which it would not.
"""

from lib.ops.cuda.boxes import bev_iou, box_iou, rotated_nms
from lib.ops.cuda.flow_embedding import flow_embedding
from lib.ops.cuda.gather import gather
from lib.ops.cuda.interpolate import inverse_distance_weights, weighted_sum
from lib.ops.cuda.knn import knn
from lib.ops.cuda.pointconv import pointconv_net
from lib.ops.cuda.sampling import furthest_point_sample

__all__ = [
    "bev_iou",
    "box_iou",
    "flow_embedding",
    "furthest_point_sample",
    "gather",
    "inverse_distance_weights",
    "knn",
    "pointconv_net",
    "rotated_nms",
    "weighted_sum",
]
