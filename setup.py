from setuptools import Extension, setup

# What the engine does without where there is no C compiler, only slower. It uses nothing of Python's, so that what is
# compiled for one version serves them all.
winograd = Extension(
    "cifar_hapi.engine._winograd",
    ["cifar_hapi/engine/winograd.c"],
    extra_compile_args=["-O3", "-g0"],  # the same bytes wherever it is built
    py_limited_api=True,
    optional=True,
)
setup(ext_modules=[winograd], options={"bdist_wheel": {"py_limited_api": "cp310"}})
