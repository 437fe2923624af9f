// Pixel features (method.md 7): the only map is the image itself. See features.h.
//
//   image        the whole image, one vector
//   quadrants    the four quadrants, in reading order; one normalisation scale
//   patchP.mean  the means of the P x P patches, one vector: a small copy of the image. Patches are
//                not locations here: with one channel their vectors would have width 1, which the
//                sphere turns into a sign
//   patchP.std   the same of their standard deviations
//   rms          sqrt(mean x^2) per channel (A.5), one vector that is never put on the sphere: it
//                holds the length that `sphere` leaves free. Of reals it is taken `rms_gain` times,
//                so that generated images may be held at a greater length
#include "engine/loss/features.h"

#include <stdio.h>

static int add_patches(struct dr_features *f, struct dr_map_dim d, int map, int p, double weight,
                       struct dr_err *err) {
    char name[24];
    if (d.h % p || d.w % p)
        return dr_fail(err, DR_ECONFIG,
                       "features.patch%d needs height and width divisible by %d, the image is "
                       "%lldx%lld",
                       p, p, (long long)d.h, (long long)d.w);
    snprintf(name, sizeof name, "patch%d.mean", p);
    dr_features_add(f, map, DR_POOL_MEAN, p, weight, name);
    snprintf(name, sizeof name, "patch%d.std", p);
    dr_features_add(f, map, DR_POOL_STD, p, weight, name);
    return 0;
}

int dr_features_add_pixels(const struct dr_feature_config *cfg, struct dr_map_dim d,
                           struct dr_features *f, int map, double weight, struct dr_err *err) {
    const bool on = weight > 0;
    int rc = 0;
    if (on && cfg->image)
        dr_features_add(f, map, DR_POOL_WHOLE, 0, weight, "image");
    if (on && cfg->quadrants && (d.h % 2 || d.w % 2))
        return dr_fail(err, DR_ECONFIG,
                       "features.quadrants needs an even height and width, the image is %lldx%lld",
                       (long long)d.h, (long long)d.w);
    if (on && cfg->quadrants)
        dr_features_add(f, map, DR_POOL_QUADRANTS, 0, weight, "quadrants");
    if (on && cfg->patch2)
        rc = add_patches(f, d, map, 2, weight, err);
    if (!rc && on && cfg->patch4)
        rc = add_patches(f, d, map, 4, weight, err);
    if (!rc && cfg->rms > 0)
        dr_features_add(f, map, DR_POOL_RMS, 0, cfg->rms, "rms");
    return rc;
}

static int create(const struct dr_feature_config *cfg, struct dr_map_dim d, struct dr_features *f,
                  void **impl, struct dr_err *err) {
    *impl = NULL;
    const int map = dr_features_add_map(f, d);
    int rc = dr_features_add_pixels(cfg, d, f, map, 1, err);
    if (!rc && !dr_features_count(f))
        rc = dr_fail(err, DR_ECONFIG,
                     "features: none is on; set at least one of features.image, "
                     "features.quadrants, features.patch2, features.patch4, features.rms");
    return rc;
}

const struct dr_feature_kind dr_feature_pixel = {.name = "pixel", .create = create};
