"""Write checkpoints as OpenAI's release has them with TensorFlow, which igpt itself does not need.

pip install tensorflow-cpu
python tests/convert/write_openai_release.py           # tests/convert/openai_release, written with TensorFlow 2.21
python tests/convert/write_openai_release.py FOLDER    # in the shapes of model S, 170 MB, for IGPT_TEST_RELEASE
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf
from released_graph import MODEL_S, SMALL, Shape, random_weights


def write(shape: Shape, prefix: Path, servers: list, step: int = 131000) -> None:
    """Write one checkpoint: the weights, their Adam slots, beta1_power, beta2_power and global_step."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default():
        with tf.device(tf.train.replica_device_setter(len(servers), worker_device="/job:ps/task:0")):
            weights = [tf.get_variable(name, initializer=value) for name, value in random_weights(shape).items()]
            global_step = tf.Variable(step - 1, trainable=False, name="global_step", dtype=tf.int64)
            loss = tf.add_n([tf.reduce_sum(tf.square(weight)) for weight in weights])
            update = tf.train.AdamOptimizer().minimize(loss, global_step)
        saver = tf.train.Saver(sharded=True)
        with tf.Session(servers[0].target) as session:
            session.run(tf.global_variables_initializer())
            session.run(update)
            for weight, value in zip(weights, random_weights(shape).values(), strict=True):
                weight.load(value, session)  # as they were before the update, which filled the slots
            saver.save(session, str(prefix), step, write_meta_graph=False)


def main(folder: Path, shape: Shape, n_shards: int) -> None:
    """Write an autoregressive and a masked model, and their palette. Each server writes a shard."""
    tf.disable_v2_behavior()
    addresses = [f"localhost:{34500 + i}" for i in range(n_shards)]
    cluster = tf.train.ClusterSpec({"ps": addresses})
    servers = [tf.train.Server(cluster, job_name="ps", task_index=i) for i in range(n_shards)]
    for name, bert in (("ar", False), ("bert", True)):
        write(shape._replace(bert=bert), folder / name / "model.ckpt", servers)
        (folder / name / "checkpoint").unlink()  # the text file in which TensorFlow notes the newest checkpoint
    centers = np.random.RandomState(0).uniform(-1, 1, (shape.n_vocab, 3))
    np.save(folder / "kmeans_centers.npy", centers.astype(np.float32))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), MODEL_S, n_shards=16)
    else:
        main(Path(__file__).parent / "openai_release", SMALL, n_shards=3)
