package edge

import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.tanh
import org.json.JSONArray
import org.json.JSONObject

/** What runs a model: token ids in, logits of one text out. */
interface Network : AutoCloseable {
    fun logits(ids: LongArray): FloatArray
}

/** An answer as the app shows it. said: a class (String), classes (JSONArray) or scores (JSONObject). confidence: of the class, where there is one. */
class Answer(val said: Any, val confidence: Double? = null)

/** What `check` saw. wrong: the first golden vector that differs, as a sentence; null when all are equal. */
class Check(val vectors: Int, val worstLogit: Float, val allowed: Float, val wrong: String?)

/** A bundle: text in, answer out. Knows neither Android nor ONNX Runtime: whoever opens it hands in what reads files and what runs the model. */
class Bundle(private val read: (String) -> ByteArray, open: (model: ByteArray, threads: Int) -> Network) : AutoCloseable {
    val manifest = JSONObject(text("manifest.json"))
    private val task: String = manifest.getString("task")
    private val labels: List<String> = manifest.getJSONArray("labels").let { names -> (0 until names.length()).map(names::getString) }
    private val settings: JSONObject = manifest.optJSONObject("settings") ?: JSONObject()
    private val tokenizer: WordPiece
    private val network: Network

    init {
        require(task in TASKS) { "the bundle's task is $task; this app answers ${TASKS.joinToString()}" }
        tokenizer = WordPiece(JSONObject(text(manifest.getString("tokenizer"))), manifest.getInt("max_tokens"))
        network = open(read(manifest.getString("model")), manifest.getInt("threads"))
    }

    fun encode(text: String): LongArray = tokenizer.encode(text)

    fun ask(text: String): Answer = answer(network.logits(encode(text)))

    /** What the task makes of logits, as edgedistill/tasks/ does. */
    fun answer(logits: FloatArray): Answer {
        require(logits.size == labels.size) { "the model has ${logits.size} outputs, the bundle names ${labels.size}" }
        return when (task) {
            "classify" -> {
                val best = logits.indices.maxBy { logits[it] }
                // exp(0) is 1, so the best class's probability is one over the sum.
                Answer(labels[best], 1 / logits.sumOf { exp((it - logits[best]).toDouble()) })
            }
            "multi_label" -> {
                val threshold = settings.getDouble("threshold").toFloat()
                // The sigmoid, in a form that does not overflow.
                Answer(JSONArray(labels.filterIndexed { place, _ -> 0.5f * (1 + tanh(0.5f * logits[place])) >= threshold }.sorted()))
            }
            else -> { // score
                val spread = settings.getJSONArray("spread")
                val mean = settings.getJSONArray("mean")
                val scores = JSONObject()
                labels.forEachIndexed { place, name -> scores.put(name, logits[place] * spread.getDouble(place) + mean.getDouble(place)) }
                Answer(scores)
            }
        }
    }

    /** Every golden vector: ids equal, logits within the manifest's bound, answer equal. Names the first that differs. */
    fun check(): Check {
        val allowed = manifest.getDouble("logit_bound").toFloat()
        var worst = 0f
        val lines = text("golden.jsonl").trim().split("\n")
        for ((place, line) in lines.withIndex()) {
            val golden = JSONObject(line)
            val text = golden.getString("text")
            fun wrong(what: String) = Check(lines.size, worst, allowed, "vector ${place + 1}, \"${text.take(40)}\": $what")
            val ids = encode(text)
            val wantedIds = golden.getJSONArray("ids")
            if (ids.size != wantedIds.length() || ids.indices.any { ids[it] != wantedIds.getLong(it) }) return wrong("token ids ${ids.toList()} instead of $wantedIds")
            val logits = network.logits(ids)
            val wanted = golden.getJSONArray("logits")
            val apart = logits.indices.maxOf { abs(logits[it] - wanted.getDouble(it).toFloat()) }
            if (!(apart <= allowed)) return wrong("a logit differs by $apart, allowed $allowed") // so written, a NaN differs too
            worst = maxOf(worst, apart)
            if (golden.isNull("answer")) continue
            val said = answer(logits).said.toString()
            if (said != golden.get("answer").toString()) return wrong("answer $said instead of ${golden.get("answer")}")
        }
        return Check(lines.size, worst, allowed, null)
    }

    override fun close() = network.close()

    private fun text(name: String): String = read(name).toString(Charsets.UTF_8)

    companion object {
        val TASKS = listOf("classify", "multi_label", "score")
    }
}
