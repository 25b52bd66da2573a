"""Geometries that the tests of layers, and of what they become elsewhere, go through."""

GEOMETRIES = {
    "usual": dict(kernel_size=3, padding=1),
    "strided": dict(kernel_size=3, stride=2, padding=1, offset_groups=2),
    "dilated": dict(kernel_size=3, padding=2, dilation=2, groups=2),
    "awkward": dict(
        kernel_size=(3, 2),
        stride=(2, 1),
        padding=(1, 2),
        dilation=(2, 1),
        groups=2,
        offset_groups=3,
        bias=True,
    ),
}
