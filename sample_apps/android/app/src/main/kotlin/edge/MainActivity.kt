package edge

import android.app.Activity
import android.os.Bundle as State
import android.text.Editable
import android.text.TextWatcher
import android.widget.EditText
import android.widget.TextView
import java.util.concurrent.Executors
import org.json.JSONArray
import org.json.JSONObject

/** A question above, the answer and its time on this phone below. At its foot: do the golden vectors hold here? */
class MainActivity : Activity() {
    // One thread for the model: questions are answered in turn, and one that was overtaken by another key press is left out.
    private val worker = Executors.newSingleThreadExecutor()
    @Volatile private var newest = ""
    private lateinit var bundle: Bundle

    override fun onCreate(state: State?) {
        super.onCreate(state)
        setContentView(R.layout.main)
        val foot = findViewById<TextView>(R.id.foot)
        worker.execute {
            val said = try {
                bundle = Bundle({ name -> assets.open("bundle/$name").use { it.readBytes() } }, ::OnnxNetwork)
                val check = bundle.check()
                check.wrong?.let { getString(R.string.differs, it) } ?: getString(R.string.equal, check.vectors)
            } catch (problem: Exception) {
                getString(R.string.broken, problem.message)
            }
            runOnUiThread { foot.text = said }
        }
        findViewById<EditText>(R.id.question).addTextChangedListener(object : TextWatcher {
            override fun afterTextChanged(text: Editable) = ask(text.toString())
            override fun beforeTextChanged(text: CharSequence, start: Int, count: Int, after: Int) = Unit
            override fun onTextChanged(text: CharSequence, start: Int, before: Int, count: Int) = Unit
        })
    }

    private fun ask(text: String) {
        newest = text
        worker.execute {
            if (text != newest || !::bundle.isInitialized) return@execute
            val start = System.nanoTime()
            val answer = if (text.isBlank()) null else bundle.ask(text)
            val milliseconds = (System.nanoTime() - start) / 1e6
            runOnUiThread { if (text == newest) show(answer, milliseconds) }
        }
    }

    private fun show(answer: Answer?, milliseconds: Double) {
        findViewById<TextView>(R.id.answer).text = answer?.let { plain(it.said) } ?: ""
        findViewById<TextView>(R.id.detail).text = when {
            answer == null -> ""
            answer.confidence == null -> getString(R.string.time, milliseconds)
            else -> getString(R.string.confidence, 100 * answer.confidence, milliseconds)
        }
    }

    private fun plain(said: Any): String = when (said) {
        is JSONArray -> (0 until said.length()).joinToString { said.getString(it) }.ifEmpty { "–" }
        is JSONObject -> said.keys().asSequence().joinToString("\n") { "$it: %.3f".format(said.getDouble(it)) }
        else -> said.toString()
    }

    override fun onDestroy() {
        worker.execute { if (::bundle.isInitialized) bundle.close() }
        worker.shutdown()
        super.onDestroy()
    }
}
