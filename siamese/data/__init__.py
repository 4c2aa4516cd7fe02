"""From files to pairs of images.

===================  ==================================================================================
`sources`            where each data set is stored; check it, download it, render it
`download`           LFW's official files, with `fetch` (HTTP) and `unpack` (archives)
`lists`              read LFW's lists of pairs and people
`protocol`           which pairs and people View 1, View 2 and the user's own data use
`own`                the user's own photos: ``data=folder`` (`folder`) and ``data=pairs`` (`pair_list`)
`split`              training and validation: ``data.split=pairs`` or ``data.split=people``
`images`             how a photo is opened, cropped and resized
`image_cache`        all images of a data set as one uint8 array, cached on disk
`copies`             copies of one photo: recompressed, resized, cropped, mirrored
`dataset`            the images and pairs of a run in memory
`sampling`           which images are in each training batch
`augmentation`       how training images are changed at random
`synthetic`          drawn faces in LFW's layout
===================  ==================================================================================
"""
