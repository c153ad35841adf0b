"""Networks that find objects in a LiDAR's point cloud. Frame: x ahead, y left, z up, metres."""
