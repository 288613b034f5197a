package edge

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.nio.LongBuffer

/** A model in ONNX Runtime. */
class OnnxNetwork(model: ByteArray, threads: Int) : Network {
    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession = OrtSession.SessionOptions().use { options ->
        options.setIntraOpNumThreads(threads)
        options.setInterOpNumThreads(1)
        environment.createSession(model, options)
    }

    override fun logits(ids: LongArray): FloatArray {
        val shape = longArrayOf(1, ids.size.toLong())
        val rows = mapOf("input_ids" to ids, "attention_mask" to LongArray(ids.size) { 1 }, "token_type_ids" to LongArray(ids.size))
        val feeds = session.inputNames.associateWith { OnnxTensor.createTensor(environment, LongBuffer.wrap(rows.getValue(it)), shape) }
        try {
            return session.run(feeds, setOf("logits")).use { result ->
                val values = (result[0] as OnnxTensor).floatBuffer
                FloatArray(values.remaining()).also { values.get(it) }
            }
        } finally {
            feeds.values.forEach(OnnxTensor::close)
        }
    }

    override fun close() = session.close()
}
