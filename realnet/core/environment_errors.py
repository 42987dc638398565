"""One-line messages for environment failures: disk, memory, permissions, GPU."""

import errno

# Prefix of the note on an error that names the file being written.
WRITING = "while writing "
_DISK = "free some space and run again, what is finished is kept"
_ADVICE = {
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
    errno.EFBIG: _DISK,
    errno.EROFS: "write to another place, or mount it writable",
    errno.EACCES: "give this user the right to it, or choose another place",
    errno.EPERM: "give this user the right to it, or choose another place",
    errno.EIO: "the disk may be failing; check it, then run again",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run again",
    errno.ENOMEM: "give the job more memory, or lower batch sizes, then run again",
}
# Messages of C++ code where Python would raise an OSError.
_WRITING = (
    "no space left",
    "file too large",
    "quota exceeded",
    "pytorchstreamwriter failed",
    "file write failed",
    "unexpected pos",
    "iostream error",
)
_MEMORY = (
    "out of memory",
    "alloc_failed",
    "'t allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "bad_alloc",
    "failed to map segment",  # of a library, while it is imported
)
_GPU = (
    "cuda error",
    "cudnn error",
    "cublas error",
    "nccl error",
    "cudnn_status",
    "cublas_status",
    "no cuda gpus",
    "cudagetdevicecount",
)


def explain(error: BaseException) -> str | None:
    """One line: what failed, where, and what to do. None if it is not an environment failure."""
    notes = getattr(error, "__notes__", [])
    written = next((note.removeprefix(WRITING) for note in notes if note.startswith(WRITING)), "")
    if isinstance(error, OSError) and error.errno in _ADVICE:
        where = written or error.filename
        where = f"{where}: " if where else ""
        return f"{where}{error.strerror}; {_ADVICE[error.errno]}"
    said = " ".join(str(error).split())[:200]
    low = said.lower()
    if isinstance(error, MemoryError) or any(word in low for word in _MEMORY):
        return f"out of memory; {_ADVICE[errno.ENOMEM]} ({said or type(error).__name__})"
    if "does not have a deterministic implementation" in low:
        return f"the gradient of an operation depends on chance on this device ({said})"
    if any(word in low for word in _WRITING):
        return f"{written or 'a file'} could not be written; {_DISK} ({said})"
    if type(error).__name__ == "AcceleratorError" or any(word in low for word in _GPU):
        return (
            "the GPU failed or is gone (see nvidia-smi); run again, trainings resume from the last"
            f" checkpoint ({said})"
        )
    return None
