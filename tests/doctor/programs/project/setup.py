from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CUDAExtension

if __name__ == "__main__":
    setup(
        name="project",
        ext_modules=[CUDAExtension("kernels._twice", ["kernels/twice.cu"])],
        cmdclass={"build_ext": BuildExtension},
    )
