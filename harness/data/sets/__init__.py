"""The data sets, one module each.

To add one, add a module here with an options model: a subclass of `DatasetOptions` under
`@register_dataset`, whose fields are what an experiment file may say and whose `load` reads the
data. `ImageOptions` and `harness.data.assemble` help with data that lie in files,
`PublishedOptions` and `harness.data.fetch` with files to download. Nothing else names a data set.

The modules are imported for planning too, so they must not import torch, torchvision or pyarrow
when they are loaded.
"""
