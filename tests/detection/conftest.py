"""Detection tests need mmcv's operators at import, compiled or not."""

import mmcds.detection  # noqa: F401
