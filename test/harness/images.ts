/* Names of the test images, for tests that start containers from them. */
import type { ImageName } from '../../cli/dev/images.ts';

export const BUSYBOX_IMAGE = 'docker.io/kybernate/busybox:1' satisfies ImageName;
export const REDIS_IMAGE = 'docker.io/kybernate/redis:1' satisfies ImageName;
export const PYTHON_IMAGE = 'docker.io/kybernate/python:1' satisfies ImageName;
